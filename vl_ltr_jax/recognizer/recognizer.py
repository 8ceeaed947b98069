"""A trained model in use: classes of pictures, with the sentences attended to.

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
    as_list,
    attended_sentences,
    open_picture,
)

BATCH_SIZES = (1, 4, 16, 64)  # a compiled program for each


class Recognizer:
    """A model with its classes; :func:`vl_ltr_jax.load` returns one.

    Attributes:
      card: description of the model.
      arrays: nested dict on the host: `towers`, `head`, and for an LGR `anchors` and
        `added`, the classes known by sentences; see `head.apply`.
      reference: features of images of trained classes, to calibrate added classes.
      tokenizer_directory: function that finds the tokenizer's files.
      source: directory that the recognizer was loaded from.
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
        """Binds the parts, see the attributes."""
        self.card, self.arrays, self.reference = card, arrays, reference
        self.tokenizer_directory, self.source = tokenizer, source
        self._model = Clip(card.clip_config, dtype=jnp.dtype(card.compute_dtype))
        self.transform = transforms.eval_transform(card.eval_recipe, card.image_size)
        self._attend = jax.jit(lgr.attention)
        self._encode_text = jax.jit(functools.partial(encode.text, self._model))
        self._compile()

    def __repr__(self) -> str:
        """Returns a description in a line."""
        return f"<Recognizer: {self.card.describe(self.source)}>"

    def _compile(self) -> None:
        """Binds the programs to the present classes."""
        self._forward = jax.jit(self.forward)
        self._classify = jax.jit(functools.partial(head.apply, self.card))
        self._placed = head.with_constants(jax.device_put(self.arrays))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, in the order of labels."""
        return self.card.class_names

    def forward(
        self, arrays: dict[str, Any], images: UInt8[Array, "b H W 3"]
    ) -> tuple[Float[Array, "b D"], Float[Array, "b C"]]:
        """Returns features and probabilities; pure, to be traced.

        Args:
          arrays: see :attr:`arrays`.
          images: pixels from :attr:`transform`.
        """
        pixels = transforms.normalize(images, self.card.normalization)
        features = encode.image(self._model, arrays["towers"], pixels)
        features = features.astype(jnp.float32)
        return features, head.apply(self.card, arrays, features).probabilities

    def probabilities(
        self, images: Picture | Iterable[Picture]
    ) -> Float32[np.ndarray, "N C"]:
        """Returns the probabilities of all classes.

        Args:
          images: one or many, see :meth:`predict`.
        """
        return self._run_images(images)[1]

    def predict(
        self, images: Picture | Iterable[Picture], top_k: int = 5
    ) -> list[Prediction]:
        """Returns the most probable classes of each picture.

        Args:
          images: one or many: paths, PIL images, or uint8 arrays [H, W, 3] of any size.
          top_k: number of classes; all classes if there are fewer.

        Raises:
          ImageReadError: a file is missing, damaged or no image.
          RecognizerError: an array is not a picture.
        """
        return [self._top(row, top_k) for row in self.probabilities(images)]

    def embed_images(
        self, images: Picture | Iterable[Picture]
    ) -> Float32[np.ndarray, "N D"]:
        """Returns image features, not normalised."""
        return self._run_images(images)[0]

    def embed_texts(self, sentences: str | Sequence[str]) -> Float32[np.ndarray, "S D"]:
        """Returns text features, not normalised.

        Raises:
          RecognizerError: the model has no text tower.
          UserError: the tokenizer's files are missing or damaged.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        if "text" not in self.arrays["towers"]["params"]:
            raise RecognizerError(
                "sentences cannot be embedded: this model comes from an LGR "
                "checkpoint, which has no text tower"
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
        """Returns predictions with the sentences that LGR attends to.

        Args:
          images: see :meth:`predict`.
          top_k: number of classes.
          num_sentences: sentences of the first class, or fewer if it has fewer.
        """
        return [
            explanation
            for pixels in self._batches(images)
            for explanation in self.explain_pixels(pixels, top_k, num_sentences)
        ]

    def explain_pixels(
        self,
        pixels: UInt8[np.ndarray, "N H W 3"],
        top_k: int = 5,
        num_sentences: int = 3,
    ) -> list[Explanation]:
        """Returns :meth:`explain` for pixels from :attr:`transform`."""
        features, probabilities = self.run_pixels(pixels)
        predictions = [self._top(row, top_k) for row in probabilities]
        if self.card.head == "linear":
            return [Explanation(each, None, None, ()) for each in predictions]
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
        """Explains the predictions of the first rows of a padded batch."""
        labels = [prediction.classes[0] for prediction in predictions]
        padded = (labels * len(features))[: len(features)]
        anchors, padding = (
            np.stack([self._anchors_of(label, name) for label in padded])
            for name in ("embeddings", "padding")
        )
        weights = np.asarray(
            self._attend(self._placed["head"], features, anchors, padding)
        )
        outputs = jax.device_get(self._classify(self._placed, features))
        visual, language = _softmax(outputs.visual), _softmax(outputs.language)
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
                zip(predictions, labels, strict=True)
            )
        ]

    def _anchors_of(self, label: int, name: str) -> np.ndarray:
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

        Its anchors are the M sentences that best separate the validation images of
        trained classes. At most `max_taken` of these images turn to the class, see
        `added_classes`.

        Args:
          name: name of the class, not yet taken.
          sentences: descriptions of its looks, worded like those of other classes.
          max_taken: share of the validation images.

        Returns:
          This recognizer, with the class as its last.

        Raises:
          RecognizerError: the model has no language branch, the name is taken, or
            there is no sentence.
        """
        if not 0 <= max_taken <= 1:
            raise RecognizerError(f"max_taken={max_taken}: not a share from 0 to 1")
        sentences = [sentences] if isinstance(sentences, str) else sentences
        texts = [text for text in map(_one_line, sentences) if text]
        name = _one_line(name)
        self.card.with_class(name, texts)  # raises before any computation
        num_anchors = self.arrays["anchors"]["padding"].shape[1]
        embedded = self.embed_texts(texts)
        reference = self.reference
        if reference is None:
            reference = np.zeros((0, self.card.clip_config.embed_dim), np.float32)
        chosen = added_classes.choose_anchors(embedded, reference, num_anchors)
        embeddings = np.zeros((1, num_anchors, embedded.shape[1]), np.float32)
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
            self.card.with_class(name, [texts[index] for index in chosen]),
            {**self.arrays, "added": added},
            reference=self.reference,
            tokenizer=self.tokenizer_directory,
        )
        if len(reference):
            added["offsets"][-1] = larger._offset(reference, max_taken)
        self.card, self.arrays = larger.card, larger.arrays
        self._compile()
        return self

    def _offset(self, reference: Float32[np.ndarray, "N D"], max_taken: float) -> float:
        """Returns the offset of the last class, whose present offset is 0."""
        parts = [
            jax.tree.map(
                lambda rows, size=size: rows[:size],
                jax.device_get(self._classify(self._placed, block)),
            )
            for block, size in _blocks(np.asarray(reference, np.float32))
        ]
        outputs = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        trained = self.card.num_trained
        return added_classes.choose_offset(
            outputs.trained,
            outputs.language[:, :trained],
            outputs.language[:, trained:-1],
            outputs.language[:, -1],
            max_taken,
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes everything into a directory that `vl_ltr_jax.load` reads.

        Args:
          directory: new or empty; it appears complete or not at all.

        Raises:
          UserError: the directory is in use, or cannot be written.
        """
        tokenizer = None
        if "text" in self.arrays["towers"]["params"]:
            tokenizer = self.tokenizer_directory()
        files.write(Path(directory), self.card, self.arrays, self.reference, tokenizer)

    def _batches(
        self, images: Picture | Iterable[Picture]
    ) -> Iterator[UInt8[np.ndarray, "b H W 3"]]:
        pictures, size = as_list(images), BATCH_SIZES[-1]
        for start in range(0, len(pictures), size):
            batch = (
                open_picture(picture, self.card.orientation)
                for picture in pictures[start : start + size]
            )
            yield np.stack([self.transform(picture) for picture in batch])

    def _run_images(
        self, images: Picture | Iterable[Picture]
    ) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "N C"]]:
        size = self.card.image_size
        empty = np.zeros((0, size, size, 3), np.uint8)
        parts = [self.run_pixels(empty), *map(self.run_pixels, self._batches(images))]
        features, probabilities = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    def run_pixels(
        self, pixels: UInt8[np.ndarray, "N H W 3"]
    ) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "N C"]]:
        """Returns features and probabilities, batch by batch."""
        features = [np.zeros((0, self.card.clip_config.embed_dim), np.float32)]
        probabilities = [np.zeros((0, len(self.class_names)), np.float32)]
        for block, size in _blocks(pixels):
            outputs = jax.device_get(self._forward(self._placed, block))
            features.append(outputs[0][:size])
            probabilities.append(outputs[1][:size])
        return np.concatenate(features), np.concatenate(probabilities)

    def _top(self, row: Float32[np.ndarray, "C"], top_k: int) -> Prediction:
        if top_k < 1:
            raise RecognizerError(f"top_k={top_k}: less than 1")
        order = np.argsort(-row, kind="stable")[:top_k]
        return Prediction(
            tuple(self.class_names[label] for label in order),
            tuple(float(row[label]) for label in order),
            tuple(map(int, order)),
        )


def _softmax(logits: Float32[np.ndarray, "b C"]) -> Float32[np.ndarray, "b C"]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yields rows in batches of `BATCH_SIZES`, and the number before padding."""
    start = 0
    while remaining := len(rows) - start:
        # The next size up, unless padding would fill more than half of it.
        size = [size for size in BATCH_SIZES if size < 2 * remaining][-1]
        block = rows[start : start + size]
        padding = [(0, size - len(block))] + [(0, 0)] * (rows.ndim - 1)
        yield np.pad(block, padding), len(block)
        start += len(block)
