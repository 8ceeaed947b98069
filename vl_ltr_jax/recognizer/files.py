"""Recognizers on disk: the model card, the arrays, and the tokenizer's files.

A directory holds `recognizer.json`, `recognizer.safetensors` and the tokenizer's files.
It needs neither the run nor its data. `checksums.json` has the CRC-32 of every file.
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
from vl_ltr_jax.recognizer import validate
from vl_ltr_jax.recognizer.card import ModelCard
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import atomic, paths, strict_json
from vl_ltr_jax.storage.artifact import ArtifactError

CARD, WEIGHTS = "recognizer.json", "recognizer.safetensors"
CHECKSUMS = "checksums.json"


def write(
    directory: Path,
    card: ModelCard,
    arrays: dict[str, Any],
    reference: Float32[np.ndarray, "N D"] | None,
    tokenizer: Path | None,
) -> None:
    """Writes a recognizer.

    Args:
      directory: new or empty; it appears complete or not at all.
      card: description of the model.
      arrays: nested dict, see `Recognizer.arrays`.
      reference: see `Recognizer.reference`.
      tokenizer: directory of the tokenizer's files; None without a text tower.

    Raises:
      UserError: the directory is in use, or cannot be written.
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
            if tokenizer is not None and (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, partial / name)
        _write_json(partial / CARD, dataclasses.asdict(card))
        sums = {file.name: atomic.crc32(file) for file in partial.iterdir()}
        _write_json(partial / CHECKSUMS, sums)

    with errors.system_faults():
        atomic.write_directory(Path(paths.expand(directory)), fill)


def read(
    directory: Path,
) -> tuple[ModelCard, dict[str, Any], Float32[np.ndarray, "N D"] | None]:
    """Reads card, arrays and reference of a saved recognizer.

    Raises:
      ArtifactError: a file is missing or damaged.
    """
    try:
        sums = strict_json.parse((directory / CHECKSUMS).read_bytes())
        for name in {CARD, WEIGHTS, *sums}:
            if atomic.crc32(directory / name) != sums[name]:
                raise ValueError(f"{name} is not the file that was saved")
        content = strict_json.parse((directory / CARD).read_bytes())
        for key in ("class_names", "normalization", "sentences"):
            content[key] = _tuples(content[key])
        card = ModelCard(**content)
        flat = load_file(directory / WEIGHTS)
        arrays = traverse_util.unflatten_dict(flat, sep="/")
        reference = arrays.pop("reference", None)
        validate.check(card, arrays, reference)
    except Exception as error:  # safetensors and damaged JSON raise many kinds
        raise errors.lack(error) or ArtifactError(
            f"{directory} holds no recognizer that can be read: {error}. Save it again"
        ) from error
    return card, arrays, reference


def _tuples(content: Any) -> Any:
    """Returns JSON lists as tuples, at any depth."""
    return tuple(map(_tuples, content)) if isinstance(content, list) else content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
