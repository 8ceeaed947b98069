"""PyTorch's files: checkpoints, and TorchScript archives such as OpenAI's.

No code in a file runs. `torch.load(weights_only=True)` makes tensors and plain values.
`torch.jit.load` would compile an archive and run its `__setstate__`, which may write
files. Here the same restricted unpickler takes the tensors out of an archive. Its code
is text that names the parameters and buffers of each class. PyTorch ignores the
checksums of its zip archives; here they are compared.
"""

import argparse
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.runtime.errors import UserError

# A training checkpoint has the weights under one of these, next to the optimizer's.
_MODEL_KEYS = ("model", "state_dict")
# Name of a class, and its tensors that a state dict has.
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]$",
    re.MULTILINE,
)


class TorchFileError(UserError):
    """A PyTorch file that cannot be read; the caller adds its path."""


class _Scripted:
    """Stand-in for an object of TorchScript: attributes without code."""

    kind = ""  # full name of its class


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the state dict of a checkpoint or of a TorchScript archive.

    Raises:
      TorchFileError: the file is damaged, or holds more than tensors.
      ImportError: PyTorch is not installed.
    """
    import torch

    # The authors' checkpoints contain their command line.
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with warnings.catch_warnings(), allowed:
            warnings.simplefilter("ignore")  # about pickles of other programs
            state = _state_dict(_content(path))
            return {name: _to_numpy(tensor) for name, tensor in state.items()}
    except TorchFileError:
        raise
    except Exception as error:  # a damaged pickle raises many kinds
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        reason = " ".join(reason.split())[:200] or type(error).__name__
        if type(error).__name__ == "UnpicklingError" and "global" in reason.lower():
            raise TorchFileError(
                f"refused: it holds more than tensors and plain values ({reason}). "
                "Nothing in it was run. If you trust it, load it in PyTorch and save "
                "its state dict alone"
            ) from error
        raise TorchFileError(
            f"not a whole PyTorch file of {path.stat().st_size} bytes ({reason}). "
            "Download or copy it again"
        ) from error


def _content(path: Path) -> Any:
    """Returns the content of the file's pickle; of TorchScript, a mapping."""
    import torch
    from torch.jit import _pickle

    if not zipfile.is_zipfile(path):  # as PyTorch wrote before 1.6
        return torch.load(path, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(path) as archive:
        if record := archive.testzip():
            raise ValueError(f"the checksum of its record {record} differs")
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return torch.load(path, map_location="cpu", weights_only=True)
        checkpoint, tensors_of = _without_code(archive), _tensors_of(archive)
    stand_ins = [
        (type("Scripted", (_Scripted,), {"kind": name}), name)
        for name in torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint)
        if name.startswith("__torch__.")
    ]
    # These return their first argument, with the type of a list as the second.
    typed = [value for value in vars(_pickle).values() if callable(value)]
    checkpoint.seek(0)
    with torch.serialization.safe_globals([*typed, *stand_ins]):
        root = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return dict(_tensors(root, tensors_of))


def _without_code(archive: zipfile.ZipFile) -> io.BytesIO:
    """Returns the records of an archive that make it a checkpoint."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checkpoint:
        for record in archive.namelist():
            name = record.partition("/")[2]
            if name.startswith("data/") or name in ("data.pkl", "version", "byteorder"):
                checkpoint.writestr(f"archive/{name}", archive.read(record))
    copy.seek(0)
    return copy


def _tensors_of(archive: zipfile.ZipFile) -> dict[str, set[str]]:
    """Returns the names of parameters and buffers by the full name of their class."""
    names = {}
    for record in archive.namelist():
        _, is_code, file = record.partition("/code/")
        if is_code and file.endswith(".py"):
            module = file.removesuffix(".py").replace("/", ".")
            for name, *lists in _CLASS.findall(archive.read(record).decode()):
                quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', ", ".join(lists))
                names[f"{module}.{name}"] = set(quoted)
    return names


def _tensors(
    module: Any, tensors_of: Mapping[str, set[str]], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields the tensors of a module and of its parts under dotted names."""
    import torch

    names = tensors_of.get(module.kind, set())
    for name, value in vars(module).items():
        if isinstance(value, _Scripted):
            yield from _tensors(value, tensors_of, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor) and name in names:
            yield f"{prefix}{name}", value


def _state_dict(content: Any) -> dict[str, Any]:
    import torch

    for key in _MODEL_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(name, str) for name in content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise TorchFileError(
            "holds no state dict, neither directly nor under "
            f"{' or '.join(map(repr, _MODEL_KEYS))}. Save the model's state_dict()"
        )
    # DistributedDataParallel adds a prefix.
    return {name.removeprefix("module."): value for name, value in content.items()}


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # NumPy has no such dtype, JAX does
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()
