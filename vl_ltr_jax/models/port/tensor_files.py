"""Named tensors on disk, whatever the format: name -> numpy array.

- safetensors, whole (`*.safetensors`) or in shards (`*.safetensors.index.json`): read
  without PyTorch.
- PyTorch's pickles (`*.pth`, `*.pt`, `*.bin`) and TorchScript archives, such as
  OpenAI's `ViT-B-16.pt`: read through PyTorch, where it is installed; nothing in a
  file is run.
"""

import os
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
# By safetensors' names; those of 8 bits and fewer are of no dtype of NumPy's.
_DTYPES = (
    *("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8"),
    *("U64", "U32", "U16", "U8", "BOOL", "C64"),
)
_POINTER = b"version https://git-lfs"  # a clone without LFS has these for files


class TensorFileError(UserError):
    """A file that holds no tensors, or not whole ones."""


def is_tensor_file(path: Path) -> bool:
    """Whether the name is that of a format read here."""
    return path.name.endswith((SAFETENSORS, SHARD_INDEX, *PICKLES))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor; for safetensors, only the headers are read.

    Raises:
        TensorFileError: If the file is broken or of no format known here.
    """
    if path.name.endswith((SAFETENSORS, SHARD_INDEX)):
        with _Safetensors(path) as file:
            return {name: file.shape(name) for name in file.names()}
    return {name: tensor.shape for name, tensor in read_tensors(path).items()}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor, in the dtype it has in the file.

    Raises:
        TensorFileError: If the file is broken or of no format known here.
    """
    if path.name.endswith((SAFETENSORS, SHARD_INDEX)):
        with _Safetensors(path) as file:
            return {name: file.tensor(name) for name in file.names()}
    if path.name.endswith(PICKLES):
        return _read_pytorch(path)
    raise TensorFileError(
        f"{path}: not a file of tensors; known are *{SAFETENSORS}, *{SHARD_INDEX} and, "
        f"through PyTorch, *{', *'.join(PICKLES)}"
    )


class _Safetensors(ExitStack):
    """One safetensors file, or the shards that an index lists."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        whole = path.name.endswith(SAFETENSORS)
        self._shard_of: dict[str, Path] = {} if whole else _read_index(path)
        shards = {path} if whole else set(self._shard_of.values())
        self._files: dict[Path, Any] = {}
        try:
            for shard in sorted(shards):
                self._files[shard] = self._open(shard)
                if whole:
                    self._shard_of = dict.fromkeys(self._files[shard].keys(), shard)
            self._check_shards()
            self._check_dtypes()
            self._check_sizes()
        except TensorFileError:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[self._shard_of[name]].get_slice(name).get_shape())

    def tensor(self, name: str) -> np.ndarray:
        shard = self._shard_of[name]
        try:
            return self._files[shard].get_tensor(name)
        except Exception as error:  # NumPy and safetensors raise many kinds
            raise TensorFileError(
                f"{shard}: {name[:100]} cannot be read as an array ({error}); save it "
                "again"
            ) from error

    def _open(self, shard: Path) -> Any:
        if not os.path.isfile(shard):
            absent = shard.with_name(shard.name[:100])
            raise TensorFileError(
                f"{absent}: no such file, though {self._path} lists it; copy all the "
                "shards of the model"
            )
        try:
            return self.enter_context(safe_open(shard, framework="np"))
        except SafetensorError as error:
            with shard.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise TensorFileError(
                        f"{shard}: a Git LFS pointer, not the weights. Fetch them with "
                        "`git lfs pull`"
                    ) from error
            raise TensorFileError(
                f"{shard}: not a whole safetensors file ({error}). It is "
                f"{shard.stat().st_size} bytes long; was it cut off while copying?"
            ) from error

    def _check_dtypes(self) -> None:
        for name, shard in self._shard_of.items():
            try:
                dtype = self._files[shard].get_slice(name).get_dtype()
            except SafetensorError as error:  # of those that Python has no name for
                dtype = str(error)
            if dtype not in _DTYPES:
                raise TensorFileError(
                    f"{shard}: {name[:100]} is of the dtype {dtype}, and read are "
                    f"{', '.join(_DTYPES)}; save it as float32, float16 or bfloat16"
                )

    def _check_sizes(self) -> None:
        """A tensor without numbers may have a shape of any size."""
        for name in self.names():
            if 0 in self.shape(name):
                raise TensorFileError(
                    f"{self._path}: {name} {list(self.shape(name))} holds no number; "
                    "download the file again"
                )

    def _check_shards(self) -> None:
        held = {shard: set(file.keys()) for shard, file in self._files.items()}
        absent = [
            f"{name} ({shard.name})"
            for name, shard in self._shard_of.items()
            if name not in held[shard]
        ]
        listed = self._shard_of.keys()
        unlisted = sorted(set().union(*held.values()) - listed) if held else []
        if absent or unlisted:
            raise TensorFileError(
                f"{self._path}: its shards do not fit it; listed but not there: "
                f"{', '.join(absent) or 'none'}; there but not listed: "
                f"{', '.join(unlisted) or 'none'}"
            )


def _read_index(path: Path) -> dict[str, Path]:
    """Tensor name -> shard."""
    try:
        listed = strict_json.parse(path.read_bytes())["weight_map"]
        if not listed:
            raise ValueError("it lists no tensor")
        for file in listed.values():
            if not file.endswith(SAFETENSORS) or Path(file).name != file:
                raise ValueError(f"{file[:100]!r} is no *{SAFETENSORS} file beside it")
        return {name: path.parent / file for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise TensorFileError(
            f"{path}: not an index of shards, an object with weight_map: name -> file "
            f"({error!r}); download it again"
        ) from error


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise TensorFileError(f"{path}: no such file")
    try:
        return torch_files.read(path)
    except ImportError as error:
        raise TensorFileError(
            f"{path}: a PyTorch file, and PyTorch is not installed to read it; "
            f"`pip install torch`, or use a *{SAFETENSORS} file of the same model"
        ) from error
    except torch_files.TorchFileError as error:
        raise TensorFileError(f"{path}: {error}") from error
