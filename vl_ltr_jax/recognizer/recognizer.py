"""A trained model that is used: pictures to classes, with the sentences that spoke.

recognizer = vl_ltr_jax.load("runs/shapes_lt")
recognizer.predict(["a.jpg", "b.jpg"])
recognizer.add_class("okapi", ["The okapi has striped legs.", ...])
recognizer.save("okapi_too")
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.models import encode, lgr
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.recognizer import added_classes, files, head
from vl_ltr_jax.recognizer.card import ModelCard, RecognizerError
from vl_ltr_jax.recognizer.predictions import (
    Explanation,
    Picture,
    Prediction,
    attended_sentences,
    listed,
    one_line,
    opened,
    softmax,
)

# Each size is a program of its own.
BATCH_SIZES = (1, 4, 16, 64)


class Recognizer:
    """A model with its classes; :func:`vl_ltr_jax.load` makes one.

    Attributes:
      card: what is known of it.
      arrays: its numbers on the host, a nested dict: `towers`, `head`, and of an LGR
        `anchors` and `added`, the classes known by sentences; see `head.apply`.
    """

    def __init__(
        self,
        card: ModelCard,
        arrays: dict[str, Any],
        *,
        reference: Float32[np.ndarray, "N D"] | None = None,
        tokenizer: Callable[[], Path],
        source: str = "",
    ) -> None:
        """Binds what was loaded.

        Args:
          card: what is known.
          arrays: numpy arrays.
          reference: features of images of the trained classes, by which the offset of
            an added class is set.
          tokenizer: gives the directory of the tokenizer's files when it is asked for.
          source: where it was loaded from, to be told.
        """
        self.card, self.arrays, self.reference = card, arrays, reference
        self.tokenizer_directory, self.source = tokenizer, source
        self._model = Clip(card.clip_config, dtype=jnp.dtype(card.compute_dtype))
        self.transform = transforms.eval_transform(card.eval_recipe, card.image_size)
        self._opened = functools.partial(opened, orientation=card.orientation)
        self._attend = jax.jit(lgr.attention)
        self._encode_text = jax.jit(functools.partial(encode.text, self._model))
        self._compile()

    def __repr__(self) -> str:
        """What it is, in a line for people."""
        return f"<Recognizer: {self.card.described(self.source)}>"

    def _compile(self) -> None:
        """To be called when the classes have changed."""
        self._forward = jax.jit(self.forward)
        self._classify = jax.jit(functools.partial(head.apply, self.card))
        self._placed = head.with_constants(jax.device_put(self.arrays))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all classes, in the order of labels."""
        return self.card.class_names

    def forward(
        self, arrays: dict[str, Any], images: UInt8[Array, "b H W 3"]
    ) -> tuple[Float[Array, "b D"], Float[Array, "b C"]]:
        """Features and probabilities; pure, to be traced.

        Args:
          arrays: as :attr:`arrays`.
          images: pixels as :attr:`transform` makes them.
        """
        pixels = transforms.normalize(images, self.card.normalization)
        features = encode.image(self._model, arrays["towers"], pixels)
        features = features.astype(jnp.float32)
        return features, head.apply(self.card, arrays, features).probabilities

    def probabilities_of(
        self, pixels: UInt8[np.ndarray, "N H W 3"]
    ) -> Float32[np.ndarray, "N C"]:
        """Probabilities of every class, for pixels of :attr:`transform`."""
        return self._run(pixels)[1]

    def probabilities(
        self, images: Picture | Iterable[Picture]
    ) -> Float32[np.ndarray, "N C"]:
        """Probabilities of every class.

        Args:
          images: one or many, see :meth:`predict`.
        """
        return self._run_images(images)[1]

    def predict(
        self, images: Picture | Iterable[Picture], top_k: int = 5
    ) -> list[Prediction]:
        """The likeliest classes of each picture.

        Args:
          images: one or many: paths, PIL images, or uint8 arrays [H, W, 3] of any size.
          top_k: how many classes; all where there are fewer.

        Raises:
          ImageReadError: if a file is missing, damaged or no image.
          RecognizerError: for something else than a picture.
        """
        return [self._top(row, top_k) for row in self.probabilities(images)]

    def embed_images(
        self, images: Picture | Iterable[Picture]
    ) -> Float32[np.ndarray, "N D"]:
        """Embeddings of pictures, not normalised: the features behind the head."""
        return self._run_images(images)[0]

    def embed_texts(self, sentences: str | Sequence[str]) -> Float32[np.ndarray, "S D"]:
        """Embeddings of sentences, not normalised.

        Raises:
          RecognizerError: if the model has no text tower.
          ValueError: (a subclass) if the tokenizer's files are missing or damaged.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        if "text" not in self.arrays["towers"]["params"]:
            raise RecognizerError(
                "this model came from an LGR checkpoint, which has no text tower: "
                "sentences cannot be embedded"
            )
        tokenizer = Tokenizer.from_directory(self.tokenizer_directory())
        tokens = tokenizer.encode(sentences, self.card.context_length)
        towers = self._placed["towers"]
        parts = [
            np.asarray(self._encode_text(towers, block.astype(np.int32)))[:size]
            for block, size in _blocks(tokens)
        ]
        empty = np.zeros((0, self.card.clip_config.embed_dim), np.float32)
        return np.concatenate([empty, *parts]).astype(np.float32)

    def explain(
        self,
        images: Picture | Iterable[Picture],
        top_k: int = 5,
        num_sentences: int = 3,
    ) -> list[Explanation]:
        """Predictions with the sentences that LGR attended to for the first class.

        Args:
          images: see :meth:`predict`.
          top_k: how many classes.
          num_sentences: how many sentences; fewer where the class has fewer.
        """
        return [
            one
            for pixels in self._batches(images)
            for one in self.explain_pixels(pixels, top_k, num_sentences)
        ]

    def explain_pixels(
        self,
        pixels: UInt8[np.ndarray, "N H W 3"],
        top_k: int = 5,
        num_sentences: int = 3,
    ) -> list[Explanation]:
        """:meth:`explain` for pixels of :attr:`transform`."""
        if num_sentences < 0:
            raise RecognizerError(f"num_sentences={num_sentences}: at least 0")
        features, probabilities = self._run(pixels)
        predictions = [self._top(row, top_k) for row in probabilities]
        if self.card.head == "linear":
            return [Explanation(one, None, None, ()) for one in predictions]
        result: list[Explanation] = []
        for block, size in _blocks(features):
            rows = slice(len(result), len(result) + size)
            result += self._explain(block, predictions[rows], num_sentences)
        return result

    def _explain(
        self,
        features: Float32[np.ndarray, "b D"],
        predictions: list[Prediction],
        num_sentences: int,
    ) -> list[Explanation]:
        """Of features that fill a batch, the first of which have a prediction."""
        first = [one.classes[0] for one in predictions]
        filled = (first * len(features))[: len(features)]
        anchors, padding = (
            np.stack([self._of_class(name, label) for label in filled])
            for name in ("embeddings", "padding")
        )
        weights = np.asarray(
            self._attend(self._placed["head"], features, anchors, padding)
        )
        said = jax.device_get(self._classify(self._placed, features))
        visual, language = softmax(said.visual), softmax(said.language)
        return [
            Explanation(
                prediction,
                float(visual[row, label]) if label < self.card.num_trained else None,
                float(language[row, label]),
                attended_sentences(
                    self.card.sentences[label],
                    weights[row],
                    anchors[row],
                    features[row],
                    int((~padding[row]).sum()),
                )[:num_sentences],
            )
            for row, (prediction, label) in enumerate(
                zip(predictions, first, strict=True)
            )
        ]

    def _of_class(self, name: str, label: int) -> np.ndarray:
        """A class's row of the anchors' arrays."""
        trained = self.card.num_trained
        if label < trained:
            return self.arrays["anchors"][name][label]
        return self.arrays["added"][name][label - trained]

    def add_class(
        self,
        name: str,
        sentences: Sequence[str],
        *,
        max_taken: float = added_classes.MAX_TAKEN,
    ) -> "Recognizer":
        """Adds a class that is recognised through its sentences alone.

        Its anchors are the M sentences that tell the trained classes' validation images
        apart best, and its logit is set so that at most `max_taken` of these images
        turn to it, see `unseen`.

        Args:
          name: of the class, not yet taken.
          sentences: what describes its looks, in words like those of the other classes.
          max_taken: share of those images.

        Returns:
          This recognizer, which now has the class as its last.

        Raises:
          RecognizerError: if the model has no language branch, the name is taken, or
            there is no sentence.
        """
        if not 0 <= max_taken <= 1:
            raise RecognizerError(f"max_taken={max_taken}: a share, from 0 to 1")
        texts = [text for text in map(one_line, listed(sentences)) if text]
        name = one_line(name)
        width = self.card.clip_config.embed_dim
        num_anchors = 0
        if "anchors" in self.arrays:
            num_anchors = self.arrays["anchors"]["padding"].shape[1]
        self.card.with_class(name, texts)  # refused before anything is computed
        embedded = self.embed_texts(texts)
        chosen = added_classes.choose_anchors(embedded, self._references(), num_anchors)
        card = self.card.with_class(name, [texts[index] for index in chosen])
        embeddings = np.zeros((1, num_anchors, width), np.float32)
        embeddings[0, : len(chosen)] = embedded[chosen]
        new = {
            "embeddings": embeddings,
            "padding": np.arange(num_anchors)[None] >= len(chosen),
            "offsets": np.zeros(1, np.float32),
        }
        added = {
            key: np.concatenate([rows, new[key]])
            for key, rows in self.arrays["added"].items()
        }
        larger = Recognizer(
            card,
            {**self.arrays, "added": added},
            reference=self.reference,
            tokenizer=self.tokenizer_directory,
        )
        added["offsets"][-1] = larger._offset(max_taken)
        self.card, self.arrays = card, larger.arrays
        self._compile()
        return self

    def _references(self) -> Float32[np.ndarray, "N D"]:
        if self.reference is None:
            return np.zeros((0, self.card.clip_config.embed_dim), np.float32)
        return np.asarray(self.reference, np.float32)

    def _offset(self, max_taken: float) -> float:
        """Of the class that is the last, whose offset is still 0."""
        reference = self._references()
        if not len(reference):
            return 0.0
        parts = [
            jax.tree.map(
                lambda rows, size=size: rows[:size],
                jax.device_get(self._classify(self._placed, block)),
            )
            for block, size in _blocks(reference)
        ]
        said = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        trained = self.card.num_trained
        return added_classes.choose_offset(
            said.trained,
            said.language[:, :trained],
            said.language[:, trained:-1],
            said.language[:, -1],
            max_taken,
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes everything into a directory that `vl_ltr_jax.load` reads.

        Args:
          directory: new or empty; it appears whole or not at all.

        Raises:
          ValueError: if it is in use.
        """
        beside = None
        if "text" in self.arrays["towers"]["params"]:
            beside = self.tokenizer_directory()
        files.write(Path(directory), self.card, self.arrays, self.reference, beside)

    def _batches(
        self, images: Picture | Iterable[Picture]
    ) -> Iterator[UInt8[np.ndarray, "b H W 3"]]:
        given, size = listed(images), BATCH_SIZES[-1]
        for start in range(0, len(given), size):
            batch = (self._opened(image) for image in given[start : start + size])
            yield np.stack([self.transform(picture) for picture in batch])

    def _run_images(
        self, images: Picture | Iterable[Picture]
    ) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "N C"]]:
        size = self.card.image_size
        nothing = np.zeros((0, size, size, 3), np.uint8)
        parts = [self._run(nothing), *map(self._run, self._batches(images))]
        features, probabilities = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    def _run(
        self, pixels: UInt8[np.ndarray, "N H W 3"]
    ) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "N C"]]:
        """Features and probabilities, batch by batch."""
        features = [np.zeros((0, self.card.clip_config.embed_dim), np.float32)]
        probabilities = [np.zeros((0, len(self.class_names)), np.float32)]
        for block, size in _blocks(pixels):
            found = jax.device_get(self._forward(self._placed, block))
            features.append(found[0][:size])
            probabilities.append(found[1][:size])
        return np.concatenate(features), np.concatenate(probabilities)

    def _top(self, row: Float32[np.ndarray, "C"], top_k: int) -> Prediction:
        if top_k < 1:
            raise RecognizerError(f"top_k={top_k}: at least 1")
        order = np.argsort(-row, kind="stable")[:top_k]
        return Prediction(
            tuple(self.class_names[label] for label in order),
            tuple(float(row[label]) for label in order),
            tuple(map(int, order)),
        )


def _blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows in batches of `BATCH_SIZES`, and how many of each are no filling."""
    start = 0
    while left := len(rows) - start:
        # The next size up, unless more of it would be filling than not.
        fitting = [size for size in BATCH_SIZES if size < 2 * left]
        size = fitting[-1]
        block = rows[start : start + size]
        filling = [(0, size - len(block))] + [(0, 0)] * (rows.ndim - 1)
        yield np.pad(block, filling), len(block)
        start += len(block)
