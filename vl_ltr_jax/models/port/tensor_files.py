"""Named tensors on disk: name -> numpy array.

- safetensors, in one file (`*.safetensors`) or in shards (`*.safetensors.index.json`).
- PyTorch's pickles (`*.pth`, `*.pt`, `*.bin`) and TorchScript archives, such as
  OpenAI's `ViT-B-16.pt`. These need PyTorch; no code in them runs.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vl_ltr_jax.models.port import torch_files
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import strict_json

SAFETENSORS = ".safetensors"
SHARD_INDEX = ".safetensors.index.json"
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_POINTER = b"version https://git-lfs"  # a clone without LFS has these for files


class TensorFileError(UserError):
    """A file without tensors, or a damaged one."""


def is_tensor_file(path: Path) -> bool:
    """Returns True if the name is that of a supported format."""
    return path.name.endswith((SAFETENSORS, SHARD_INDEX, *PICKLES))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor; of safetensors, it reads the headers alone.

    Raises:
      TensorFileError: the file is damaged or of an unknown format.
    """
    if not path.name.endswith((SAFETENSORS, SHARD_INDEX)):
        return {name: tensor.shape for name, tensor in read_tensors(path).items()}
    with ExitStack() as stack:
        return {
            name: tuple(file.get_slice(name).get_shape())
            for name, file in _open(path, stack).items()
        }


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns every tensor, in the dtype of the file.

    Raises:
      TensorFileError: the file is damaged or of an unknown format.
    """
    if path.name.endswith(PICKLES):
        return _read_pytorch(path)
    if not path.name.endswith((SAFETENSORS, SHARD_INDEX)):
        raise TensorFileError(
            f"{path}: not a file of tensors. Name a *{SAFETENSORS}, a *{SHARD_INDEX} "
            f"or, with PyTorch, a *{', *'.join(PICKLES)}"
        )
    with ExitStack() as stack:
        files = _open(path, stack)
        try:
            return {name: file.get_tensor(name) for name, file in files.items()}
        except Exception as error:  # NumPy and safetensors raise many kinds
            raise TensorFileError(
                f"{path}: a tensor is no array of NumPy ({error}). Save it as float32, "
                "float16 or bfloat16"
            ) from error


def _open(path: Path, stack: ExitStack) -> Mapping[str, Any]:
    """Opens a safetensors file or all shards; returns the file of each tensor."""
    if path.name.endswith(SAFETENSORS):
        file = _open_shard(path, stack)
        return dict.fromkeys(file.keys(), file)
    shard_of = _read_index(path)
    shards = sorted(set(shard_of.values()))
    if missing := [s for s in shards if not os.path.isfile(path.parent / s)]:
        raise TensorFileError(
            f"{path}: {', '.join(missing)[:200]} missing. Copy all shards of the model"
        )
    files = {shard: _open_shard(path.with_name(shard), stack) for shard in shards}
    stored = {(name, shard) for shard, file in files.items() for name in file.keys()}
    if differences := stored ^ set(shard_of.items()):
        names = ", ".join(sorted(f"{name} ({shard})" for name, shard in differences))
        raise TensorFileError(
            f"{path}: the index and its shards differ in {names}. Download them again"
        )
    return {name: files[shard] for name, shard in shard_of.items()}


def _open_shard(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(safe_open(path, framework="np"))
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise TensorFileError(
                    f"{path}: a Git LFS pointer, not the weights. Fetch them with "
                    "`git lfs pull`"
                ) from error
        raise TensorFileError(
            f"{path}: not a whole safetensors file of {path.stat().st_size} bytes "
            f"({error}). Download or copy it again"
        ) from error


def _read_index(path: Path) -> dict[str, str]:
    """Returns the file name of the shard of each tensor."""
    try:
        shard_of = dict(strict_json.parse(path.read_bytes())["weight_map"])
        for shard in shard_of.values():
            if not shard.endswith(SAFETENSORS) or Path(shard).name != shard:
                raise ValueError(f"{shard[:100]!r} is no *{SAFETENSORS} file")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise TensorFileError(
            f"{path}: not an index of shards, an object with weight_map: name -> file "
            f"({error!r}). Download it again"
        ) from error
    return shard_of


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise TensorFileError(f"{path}: no such file")
    try:
        return torch_files.read(path)
    except ImportError as error:
        raise TensorFileError(
            f"{path}: a PyTorch file, and PyTorch is not installed. `pip install "
            f"torch`, or use a *{SAFETENSORS} file of the same model"
        ) from error
    except torch_files.TorchFileError as error:
        raise TensorFileError(f"{path}: {error}") from error
