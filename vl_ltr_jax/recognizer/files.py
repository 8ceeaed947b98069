"""Recognizers on disk: a card, the arrays, and the tokenizer's files.

A directory holds `recognizer.json`, `recognizer.safetensors` and what the tokenizer
reads. It needs neither the run it came from nor its data. The card has the checksums of
the other files.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float32
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.models.port.preprocessing import checked_constants
from vl_ltr_jax.recognizer import validate
from vl_ltr_jax.recognizer.card import ModelCard
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import atomic, paths, strict_json
from vl_ltr_jax.storage.artifact import ArtifactError

CARD, WEIGHTS = "recognizer.json", "recognizer.safetensors"
_FORMAT = 2


def write(
    directory: Path,
    card: ModelCard,
    arrays: dict[str, Any],
    reference: Float32[np.ndarray, "N D"] | None,
    beside: Path | None,
) -> None:
    """Writes a recognizer.

    Args:
      directory: new or empty; it appears whole or not at all.
      card: what is known of it.
      arrays: its numbers, a nested dict.
      reference: see `recognizer.Recognizer`.
      beside: directory of the tokenizer's files, if it has a text tower.

    Raises:
      ValueError: if the directory is in use.
    """
    if reference is not None:
        arrays = {**arrays, "reference": reference}
    flat = traverse_util.flatten_dict(arrays, sep="/")

    def fill(partial: Path) -> None:
        save_file(
            {name: np.asarray(array, order="C") for name, array in flat.items()},
            partial / WEIGHTS,
        )
        for name in clip_files.TOKENIZER_FILES:
            if beside is not None and (beside / name).is_file():
                shutil.copy(beside / name, partial / name)
        content = {
            "format": _FORMAT,
            "crc32": {file.name: atomic.crc32(file) for file in partial.iterdir()},
            **dataclasses.asdict(card),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (partial / CARD).write_text(text, encoding="utf-8")

    with errors.system_faults():
        atomic.write_directory(Path(paths.expand(directory)), fill)


def read(
    directory: Path,
) -> tuple[ModelCard, dict[str, Any], Float32[np.ndarray, "N D"] | None]:
    """ModelCard, arrays and reference of what :func:`write` wrote.

    Raises:
      ArtifactError: if a file is missing, damaged, or does not fit the others.
    """
    try:
        content = strict_json.parse((directory / CARD).read_bytes())
        if content.pop("format") != _FORMAT:
            raise ValueError("another version of this package wrote it")
        saved = content.pop("crc32", {})  # older ones have none
        for name in saved.keys() & {WEIGHTS, *clip_files.TOKENIZER_FILES}:
            if atomic.crc32(directory / name) != saved[name]:
                raise ValueError(f"{name} is not what was saved")
        content["class_names"] = names(content["class_names"])
        content["sentences"] = texts(content["sentences"])
        mean, std = content["normalization"]
        content["normalization"] = checked_constants(mean, std, CARD)
        card = ModelCard(**content)
        flat = load_file(directory / WEIGHTS)
        arrays = traverse_util.unflatten_dict(flat, sep="/")
        reference = arrays.pop("reference", None)
        validate.check(card, arrays, reference)
    except Exception as error:  # safetensors and damaged JSON raise many kinds
        raise errors.lack(error) or ArtifactError(
            f"{directory} holds no recognizer that can be read: {error}; save it again"
        ) from error
    return card, arrays, reference


def names(given: Any) -> tuple[str, ...]:
    """Class names, from JSON.

    Raises:
      ValueError: if they are none.
    """
    return _strings(given, "the class names")


def texts(given: Any) -> tuple[tuple[str, ...], ...]:
    """The sentences of each class, from JSON.

    Raises:
      ValueError: if they are none.
    """
    if not isinstance(given, list):
        raise ValueError(f"the sentences are a {type(given).__name__}, not a list")
    return tuple(_strings(sentences, "the sentences of a class") for sentences in given)


def _strings(given: Any, what: str) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise ValueError(f"{what} are a {type(given).__name__}, not a list")
    if odd := [one for one in given if not isinstance(one, str)]:
        raise ValueError(f"{what} have {str(odd[0])[:100]}, which is no text")
    return tuple(given)
