"""Inputs of a run that was never started: sizes alone, from the data or from tables.

No weights are read. An array here is one number, repeated without memory.
"""

import os
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, Int8

from vl_ltr_jax import systems
from vl_ltr_jax.config.build import ConfigError
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.checks import published
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.sources.dataset import LongTailedData, Split
from vl_ltr_jax.data.text.corpus import Corpus
from vl_ltr_jax.models.clip import PRESETS, variable_shapes
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import finetune
from vl_ltr_jax.storage.artifact import Artifact
from vl_ltr_jax.train.finetune import PlacedAnchors

SENTENCES = 1_000_000  # of a corpus that is absent; more than any of the paper's


class Counts(NamedTuple):
    """Sizes of a data set; 0 where unknown."""

    classes: int = 0
    train: int = 0
    val: int = 0
    test: int = 0
    sentences: int = 0


def zeros(tree: Any) -> Any:
    """Returns shapes as read-only arrays of zeros that need no memory."""
    return jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), tree
    )


def assumed_lengths(
    rng: np.random.Generator, count: int, longest: int
) -> Int[np.ndarray, "S"]:
    """Draws tokens of sentences as Wikipedia has them: log-normal, 25 in the mean."""
    return np.exp(rng.normal(3.1, 0.5, count)).astype(int).clip(4, longest)


def assumed_tokens(
    count: int, context_length: int, *, seed: int = 0
) -> Int8[np.ndarray, "S L"]:
    """Returns sentences of Wikipedia's lengths: 1 at the end of text, 0 elsewhere."""
    lengths = assumed_lengths(np.random.default_rng(seed), count, context_length)
    return (np.arange(context_length)[None] == lengths[:, None] - 1).astype(np.int8)


def read(config: Config, override: Counts) -> tuple[RunInputs, list[str]]:
    """Returns the inputs of a run by their sizes, and what was assumed, in words.

    Args:
      config: of the run.
      override: sizes that replace those of the data set.

    Raises:
      ConfigError: neither the data set nor a table has a size.
    """
    preset = PRESETS[config.model.backbone].at_image_size(config.model.image_size)
    notes, tokens = (
        [f"towers: as {config.model.backbone} has them; no file is read"],
        None,
    )
    options = config.data
    is_there = options.source == "shapes" or os.path.isdir(options.root)
    if is_there:
        data = run_inputs.read_data(config)
        corpus = run_inputs.build_corpus(config, data)
        sizes = Counts(
            len(data.class_names),
            len(data.train),
            len(data.val),
            len(data.test),
            len(corpus.labels),
        )
    else:
        sizes = _published_sizes(options.name)
    counts = Counts(*(own or size for own, size in zip(override, sizes, strict=True)))
    if not (counts.classes and counts.train):
        raise ConfigError(
            f"data.root={options.root!r}, data.name={options.name!r}: neither a "
            "directory nor a published data set. Add --num_classes and --num_images."
        )
    if counts != sizes or not is_there:
        data, corpus = _planned_data(counts), _planned_corpus(counts)
    elif _has_tokenizer(config):
        tokens = run_inputs.encode(config, corpus, preset.text.vocab_size)
    classes, images = len(data.class_names), len(data.train)
    source = "the data set" if counts == sizes and is_there else "tables and flags"
    notes.append(f"{images:,} images of {classes:,} classes, from {source}")
    lengths = "their own lengths"
    if tokens is None:
        tokens = assumed_tokens(len(corpus.labels), options.context_length)
        lengths = "the lengths of Wikipedia's, 25 tokens in the mean"
    notes.append(f"{len(corpus.labels):,} sentences, of {lengths}")
    normalization = transforms.NORMALIZATIONS["clip"]
    clip = zeros(variable_shapes(preset))
    return RunInputs(data, corpus, tokens, preset, normalization, clip), notes


def _published_sizes(name: str) -> Counts:
    known = published.by_name(name)
    if known is None:
        return Counts(sentences=SENTENCES)
    sizes = {"val": known.sizes["test"], **known.sizes}
    return Counts(known.num_classes, **sizes, sentences=SENTENCES)


def _has_tokenizer(config: Config) -> bool:
    """Returns True if the tokenizer's files are here, and need no download."""
    name = config.init.tokenizer or config.init.clip
    return name == "tiny_clip" or os.path.exists(name)


def _planned_data(counts: Counts) -> LongTailedData:
    def split(size: int) -> Split:
        labels = np.arange(size, dtype=np.int32) % counts.classes
        return Split(labels, lambda index: b"", str)

    names = tuple(map(str, range(counts.classes)))
    return LongTailedData(
        "planned",
        names,
        ("",) * counts.classes,
        split(counts.train),
        split(counts.val or counts.classes),
        split(counts.test or counts.classes),
    )


def _planned_corpus(counts: Counts) -> Corpus:
    count = max(counts.sentences, counts.classes)
    labels = np.sort(np.arange(count, dtype=np.int32) % counts.classes)
    names = tuple(map(str, range(counts.classes)))
    return Corpus(("",) * count, labels, names)


class PlannedRun(Run):
    """A run whose stages have left arrays of the right shapes, and nothing else.

    Its own functions and those of its stages build programs under
    `mesh.describing`.
    """

    def __init__(
        self, config: Config, inputs: RunInputs, mesh: jax.sharding.Mesh
    ) -> None:
        """Has no workdir."""
        super().__init__(config, epath.Path("planned"), inputs, mesh, writes=False)

    def artifact(self, stage: str) -> Artifact:
        """Returns the finished artifact of a stage, which nothing was kept of."""
        width, classes = self.inputs.clip_config.embed_dim, self.inputs.num_classes
        arrays = {"kernel": (width, classes), "bias": (classes,)}
        views = (len(self.inputs.data.train), width)
        return _PlannedArtifact(self.workdir / stage, arrays, views)

    def towers(self) -> dict[str, Any]:
        """Returns the towers before any training."""
        return self.initial_towers()

    def finetuned(self) -> dict[str, Any]:
        """Returns `head`, and `visual` if the tower trains."""
        towers = self.towers()
        head = systems.recipe_of(self.config).head(self, towers)
        params: dict[str, Any] = {}
        if head is not None:
            draw = finetune.initializer(self, head, self.anchors())
            key = jax.eval_shape(lambda: jax.random.key(0))
            params["head"] = zeros(jax.eval_shape(draw, key))
        if self.config.finetune.train_image_tower:
            params["visual"] = towers["params"]["visual"]
        return params

    def anchors(self) -> PlacedAnchors | None:
        """Returns described anchors; None for an FC head."""
        if self.config.finetune.head == "fc":
            return None
        classes, count = self.inputs.num_classes, self.config.anchors.num_anchors
        shape = (classes, count, self.inputs.clip_config.embed_dim)
        return self.place_anchors(_array(*shape), np.zeros(shape[:2], bool))

    def sentence_embeddings(self) -> Float[np.ndarray, "S D"]:
        """Returns a table of the corpus's size."""
        return _array(len(self.inputs.tokens), self.inputs.clip_config.embed_dim)

    def embed_sentences(self, variables: Any, what: str) -> np.ndarray:
        """Returns a table of the corpus's size."""
        del variables, what
        return self.sentence_embeddings()

    def class_texts(self, sentences: np.ndarray) -> np.ndarray:
        """Returns a text for each class."""
        return _array(self.inputs.num_classes, sentences.shape[1])


class _PlannedArtifact(Artifact):
    """Arrays of cached views, and of the second stage of decoupled systems."""

    def __init__(
        self, directory: epath.Path, arrays: dict[str, Any], views: tuple[int, int]
    ) -> None:
        super().__init__(directory, {})
        self._arrays, self._views = arrays, views

    def summary(self) -> dict[str, Any]:
        return {"arrays": sorted(self._arrays)}

    def load_array(self, name: str) -> np.ndarray:
        return _array(*self._arrays.get(name, self._views))


def _array(*shape: int) -> Float[np.ndarray, "..."]:
    return zeros(jax.ShapeDtypeStruct(shape, np.float32))
