"""What a run reads before its first stage: data set, corpus, tokens, weights.

Everything here is plain host memory, and everything that can be wrong with the user's
files is found here, before a device is touched.
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
from vl_ltr_jax.data.sources.lists import read_image_list
from vl_ltr_jax.data.text import corpus as corpora
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.port import vl_ltr_files
from vl_ltr_jax.run import initial


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """Everything a run reads.

    Attributes:
      data: images, labels and class names.
      corpus: the sentences of every class, a class's prompts first.
      tokens: token ids [S, L], trimmed to the longest sentence.
      clip_config: sizes of the towers at the run's image size.
      normalization: mean and standard deviation of pixels.
      clip: the frozen CLIP's variables, or None when towers start at random; with
        `init.vl_ltr`, those of that checkpoint.
      released_head: the head of an LGR checkpoint; its towers have no text branch, so
        there is neither corpus nor tokens then.
      root: directory of the data set; images are told apart by what follows it.
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
        """C."""
        return len(self.data.class_names)

    @functools.cached_property
    def digest(self) -> str:
        """Changes with sentences, ids, labels, image paths, weights or their facts.

        Not with the directory of the data set, which may be moved.
        """
        found = hashlib.sha256("\0".join(self.corpus.sentences).encode())
        found.update(repr((self.clip_config, self.normalization)).encode())
        for split in (self.data.train, self.data.val, self.data.test):
            found.update(np.ascontiguousarray(split.labels).tobytes())
            images = "\0".join(map(split.describe, range(len(split))))
            if self.root:
                images = images.replace(os.path.join(self.root, ""), "")
            found.update(images.encode())
        weights: list[Any] = [self.clip or {}, self.tokens]
        if self.released_head is not None:
            weights += [self.released_head.params, self.released_head.anchors]
        for leaf in jax.tree.leaves(weights):
            found.update(np.ascontiguousarray(leaf).tobytes())
        return found.hexdigest()[:16]

    def model_facts(self) -> dict[str, Any]:
        """Facts of the towers that the configuration leaves to the weights' files."""
        return {
            "vision_activation": self.clip_config.vision.activation,
            "text_activation": self.clip_config.text.activation,
            "normalization": self.normalization,
        }

    def is_prompt(self, num_prompts: int) -> Bool[np.ndarray, "S"]:
        """Which sentences are prompts: the first `num_prompts` of each class."""
        first = np.searchsorted(self.corpus.labels, self.corpus.labels)
        return np.arange(len(self.corpus.labels)) - first < num_prompts


def read(config: Config, data: sources.LongTailedData | None = None) -> RunInputs:
    """Reads and checks all inputs.

    Args:
      config: says where they are.
      data: a data set in place of the configuration's.

    Raises:
      ValueError: (a subclass) naming the file and the fault.
    """
    clip_config, normalization, clip, released_head = initial.read(config)
    if released_head is None:
        _check_text(config, clip_config)
    if data is None:
        data = read_data(config)
    if released_head is not None:
        _check_classes(config, released_head, len(data.class_names))
        none = corpora.Corpus((), np.zeros(0, np.int32), data.class_names)
        tokens = np.zeros((0, 1), np.int32)
        root = config.data.root
        return RunInputs(
            data, none, tokens, clip_config, normalization, clip, released_head, root
        )
    directory = _tokenizer_directory(config)
    tokenizer = Tokenizer.from_directory(directory)
    if tokenizer.vocab_size != clip_config.text.vocab_size:
        key = "tokenizer" if config.init.tokenizer else "clip"
        raise initial.InputError(
            f"init.{key}={getattr(config.init, key)!r}: the tokenizer has "
            f"{tokenizer.vocab_size} ids, but the text tower has "
            f"{clip_config.text.vocab_size} embeddings. Set init.tokenizer to the "
            "files of the tower's own model; '' takes those beside init.clip."
        )
    corpus = build_corpus(config, data)
    tokens = token_cache.encode(
        tokenizer,
        corpus.sentences,
        config.data.context_length,
        _cache_directory(config),
    )
    root = config.data.root
    return RunInputs(data, corpus, tokens, clip_config, normalization, clip, root=root)


def read_data(config: Config, *, quiet: bool = False) -> sources.LongTailedData:
    """Reads and checks the data set alone.

    Args:
      config: says where it is.
      quiet: leaves it to the caller to say what was left out of folders.

    Raises:
      ValueError: (a subclass) naming the file and the fault.
    """
    data = _data(config).oriented(config.data.orientation)
    if data.left_out and not quiet:
        console.say(picture_folders.describe(data.left_out), stage="data")
    if data.test_is_val and not quiet:
        console.warn(sources.TEST_IS_VAL)
    return dataclasses.replace(data, name=config.data.name)


def build_corpus(config: Config, data: sources.LongTailedData) -> corpora.Corpus:
    """The sentences of a data set.

    Raises:
      ValueError: if a class has none.
    """
    return corpora.build_corpus(
        data.class_names,
        data.class_texts,
        config.data.prompts,
        rule=config.data.corpus_rule,
    )


def data_root(config: Config) -> Path:
    """The directory of the data set."""
    return Path(config.data.root)


def text_root(config: Config) -> Path | None:
    """The directory that holds the texts; None for that of the data set."""
    if not config.data.text_root:
        return None
    return Path(config.data.text_root)


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
    """From a picture to the pixels that evaluation sees."""
    return transforms.eval_transform(config.data.eval_recipe, config.model.image_size)


def train_transform(config: Config) -> transforms.TrainTransform:
    """From a picture and a generator to the pixels that training sees."""
    return transforms.train_transform(
        config.data.train_recipe,
        config.model.image_size,
        eval_recipe=config.data.eval_recipe,
        strengths=transforms.Strengths(
            **{
                field.name: getattr(config.data, field.name)
                for field in dataclasses.fields(transforms.Strengths)
            }
        ),
    )


def _cache_directory(config: Config) -> Path | str:
    if config.data.cache == "default":
        return token_cache.default_directory()
    return config.data.cache


def _data(config: Config) -> sources.LongTailedData:
    options, root = config.data, data_root(config)
    if options.source == "shapes":
        return dataset.load(image_size=config.model.image_size)
    texts = sources.Texts(
        text_root(config),
        options.text_encoding,
        absent=options.texts == "none",
    )
    if options.source == "inat18":
        return inat18.read_inat18(root, texts=texts)
    if options.source == "image_folder":
        return folders.read_image_folder(
            root, options.name, options.layout, texts=texts
        )
    if options.source == "tfds":
        return tfds_records.read_prepared(
            root,
            options.name,
            options.layout,
            texts=texts,
            cache_directory=_cache_directory(config),
        )
    lists = {
        split: getattr(options, f"{split}_list") or f"{options.name}_{split}.txt"
        for split in ("train", "val", "test")
    }
    return read_image_list(root, options.name, options.layout, lists=lists, texts=texts)


def _tokenizer_directory(config: Config) -> Path:
    """Where the vocabulary lies: a directory, or that of a weights file."""
    name = config.init.tokenizer or config.init.clip
    if not name:
        raise initial.InputError(
            f"init.vl_ltr={config.init.vl_ltr!r} is a CVLP, whose text tower needs a "
            "vocabulary: set init.tokenizer to a directory with CLIP's tokenizer "
            "files, or to openai/clip-vit-base-patch16"
        )
    source = initial.model_source(name)
    return source.parent if source.is_file() else source


def _check_text(config: Config, clip_config: ClipConfig) -> None:
    if config.data.context_length > clip_config.text.context_length:
        raise initial.InputError(
            f"data.context_length={config.data.context_length}, but "
            f"{config.model.backbone} has {clip_config.text.context_length} positions"
        )


def _check_classes(
    config: Config, released_head: vl_ltr_files.ReleasedHead, num_classes: int
) -> None:
    if len(released_head.anchors) != num_classes:
        raise initial.InputError(
            f"init.vl_ltr={config.init.vl_ltr!r} recognises "
            f"{len(released_head.anchors)} classes, but {config.data.name!r} has "
            f"{num_classes}; it was trained on another data set"
        )
