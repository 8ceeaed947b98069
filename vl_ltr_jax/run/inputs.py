"""Inputs of a run: data set, corpus, tokens and weights, in host memory.

Faults of the user's files are detected here, before a device is used.
"""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Integer

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.data.images import picture_folders, transforms
from vl_ltr_jax.data.shapes import dataset
from vl_ltr_jax.data.sources import dataset as sources
from vl_ltr_jax.data.sources import folders, inat18, tfds_records
from vl_ltr_jax.data.sources.faults import Faults
from vl_ltr_jax.data.sources.lists import read_image_list
from vl_ltr_jax.data.text import corpus as corpora
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.port import vl_ltr_files
from vl_ltr_jax.run import initial

_VAL_ANCHORS = (
    ". AnSS reads their labels too: set anchors.images='train' to report unseen images."
)


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """The inputs of a run.

    Attributes:
      corpus: sentences of every class, a class's prompts first.
      tokens: token ids [S, L], trimmed to the longest sentence.
      clip_config: sizes of the towers at the run's image size.
      normalization: mean and standard deviation of pixels.
      clip: variables of the frozen CLIP or of `init.vl_ltr`; None for random towers.
      released_head: head of an LGR checkpoint; its towers have no text branch, so
        corpus and tokens are empty.
      root: directory of the data set; paths below it identify images.
    """

    data: sources.LongTailedData
    corpus: corpora.Corpus
    tokens: Integer[np.ndarray, "S L"]
    clip_config: ClipConfig
    normalization: transforms.Constants
    clip: dict[str, Any] | None
    released_head: vl_ltr_files.ReleasedHead | None = None
    root: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.data.class_names)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of sentences, ids, labels, image paths, weights and their facts.

        It is independent of the data set's directory, which may move.
        """
        digest = hashlib.sha256("\0".join(self.corpus.sentences).encode())
        digest.update(repr((self.clip_config, self.normalization)).encode())
        for split in (self.data.train, self.data.val, self.data.test):
            digest.update(np.ascontiguousarray(split.labels).tobytes())
            images = "\0".join(map(split.describe, range(len(split))))
            if self.root:
                images = images.replace(os.path.join(self.root, ""), "")
            digest.update(images.encode())
        weights: list[Any] = [self.clip or {}, self.tokens]
        if self.released_head is not None:
            weights += [self.released_head.params, self.released_head.anchors]
        for leaf in jax.tree.leaves(weights):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def model_facts(self) -> dict[str, Any]:
        """Returns facts of the towers that come from the files of the weights."""
        return {
            "vision_activation": self.clip_config.vision.activation,
            "text_activation": self.clip_config.text.activation,
            "normalization": self.normalization,
        }

    def is_prompt(self, num_prompts: int) -> Bool[np.ndarray, "S"]:
        """Returns True for the first `num_prompts` sentences of each class."""
        first = np.searchsorted(self.corpus.labels, self.corpus.labels)
        return np.arange(len(self.corpus.labels)) - first < num_prompts


def read(config: Config, data: sources.LongTailedData | None = None) -> RunInputs:
    """Reads and checks all inputs.

    Args:
      config: of the run.
      data: data set that replaces the configuration's.

    Raises:
      UserError: names the file and the fault.
    """
    clip_config, normalization, clip, released_head = initial.read(config)
    if released_head is None:
        _check_text(config, clip_config)
    if data is None:
        data = read_data(config)
    if released_head is not None:
        _check_classes(config, released_head, len(data.class_names))
        corpus = corpora.Corpus((), np.zeros(0, np.int32), data.class_names)
        tokens = np.zeros((0, 1), np.int32)
        root = config.data.root
        return RunInputs(
            data, corpus, tokens, clip_config, normalization, clip, released_head, root
        )
    corpus = build_corpus(config, data)
    tokens = encode(config, corpus, clip_config.text.vocab_size)
    root = config.data.root
    return RunInputs(data, corpus, tokens, clip_config, normalization, clip, root=root)


def read_data(config: Config, faults: Faults | None = None) -> sources.LongTailedData:
    """Reads and checks the data set alone.

    Args:
      config: of the run.
      faults: collects faults; None raises the first one and prints remarks.

    Raises:
      UserError: names the file and the fault.
    """
    data = _data(config, faults).oriented(config.data.orientation)
    if data.left_out and faults is None:
        console.say(picture_folders.describe(data.left_out), stage="data")
    if data.test_is_val and faults is None:
        facts = (config.finetune.head, config.anchors.selection, config.anchors.images)
        reads_val = facts == ("lgr", "anss", "val")
        console.warn(sources.TEST_IS_VAL + _VAL_ANCHORS * reads_val)
    return dataclasses.replace(data, name=config.data.name)


def build_corpus(config: Config, data: sources.LongTailedData) -> corpora.Corpus:
    """Returns the sentences of a data set.

    Raises:
      CorpusError: a class has no sentence.
    """
    options = config.data
    return corpora.build_corpus(
        data.class_names, data.class_texts, options.prompts, rule=options.corpus_rule
    )


def encode(
    config: Config, corpus: corpora.Corpus, vocab_size: int
) -> Integer[np.ndarray, "S L"]:
    """Returns token ids of the sentences, trimmed to the longest.

    Args:
      config: names the tokenizer and the cache.
      corpus: of the run.
      vocab_size: of the text tower.

    Raises:
      UserError: the tokenizer cannot be read, or is of another vocabulary.
    """
    tokenizer = Tokenizer.from_directory(initial.tokenizer_directory(config))
    if tokenizer.vocab_size != vocab_size:
        key = "tokenizer" if config.init.tokenizer else "clip"
        raise initial.InputError(
            f"init.{key}={getattr(config.init, key)!r}: the tokenizer has "
            f"{tokenizer.vocab_size} ids, but the text tower has {vocab_size} "
            "embeddings. Set init.tokenizer to the files of the tower's own model, or "
            "to '' for those of init.clip."
        )
    cache: Path | str = config.data.cache
    if cache == "default":
        cache = token_cache.default_directory()
    length = config.data.context_length
    return token_cache.encode(tokenizer, corpus.sentences, length, cache)


def feed(config: Config, batch_size: int) -> loader.Feed:
    """Returns this process's share of batches, `batch_size` images over all."""
    return loader.Feed(
        batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        config.data.num_threads or len(os.sched_getaffinity(0)),
        config.data.num_workers,
        config.data.bad_image_limit,
    )


def eval_transform(config: Config) -> transforms.EvalTransform:
    """Returns the transform of evaluation."""
    return transforms.eval_transform(config.data.eval_recipe, config.model.image_size)


def train_transform(config: Config) -> transforms.TrainTransform:
    """Returns the transform of training."""
    names = [field.name for field in dataclasses.fields(transforms.Strengths)]
    return transforms.train_transform(
        config.data.train_recipe,
        config.model.image_size,
        eval_recipe=config.data.eval_recipe,
        strengths=transforms.Strengths(**{n: getattr(config.data, n) for n in names}),
    )


def _data(config: Config, faults: Faults | None) -> sources.LongTailedData:
    options, root = config.data, Path(config.data.root)
    if options.source == "shapes":
        return dataset.load(image_size=config.model.image_size)
    texts = sources.Texts(
        Path(options.text_root) if options.text_root else None,
        options.text_encoding,
        absent=options.texts == "none",
    )
    common: dict[str, Any] = {"texts": texts, "faults": faults}
    if options.source == "inat18":
        return inat18.read_inat18(root, **common)
    if options.source == "image_folder":
        return folders.read_image_folder(root, options.name, options.layout, **common)
    if options.source == "tfds":
        return tfds_records.read_prepared(
            root, options.name, options.layout, texts=texts
        )
    splits = (options.train_list, options.val_list, options.test_list)
    lists = dict(zip(sources.SPLITS, splits, strict=True))
    return read_image_list(root, options.name, options.layout, lists=lists, **common)


def _check_text(config: Config, clip_config: ClipConfig) -> None:
    if config.data.context_length > clip_config.text.context_length:
        raise initial.InputError(
            f"data.context_length={config.data.context_length}: "
            f"{config.model.backbone} has {clip_config.text.context_length} positions. "
            "Set at most that number."
        )


def _check_classes(
    config: Config, released_head: vl_ltr_files.ReleasedHead, num_classes: int
) -> None:
    if len(released_head.anchors) != num_classes:
        raise initial.InputError(
            f"init.vl_ltr={config.init.vl_ltr!r} recognises "
            f"{len(released_head.anchors)} classes, but data.name={config.data.name!r} "
            f"has {num_classes}. Name the data set of its training."
        )
