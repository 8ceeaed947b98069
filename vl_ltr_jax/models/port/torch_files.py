"""PyTorch's files: checkpoints, and TorchScript archives such as OpenAI's.

Nothing in a file is run. A checkpoint's pickle is opened with `weights_only=True`: it
may make tensors and plain values. PyTorch's own reader of TorchScript compiles the code
of an archive and runs the parts named `__setstate__`, which may write files; here the
same restricted unpickler takes the tensors out of the archive, and its code is text
that says which of them are the model's. Both are zip archives, whose checksums PyTorch
does not look at: here they are compared. Before a pickle is opened, `pickles` tells
whether it calls what no state dict needs, or stands for far more than it holds.
"""

import argparse
import contextlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.models.port import pickle_scan
from vl_ltr_jax.runtime.errors import UserError

# A training checkpoint keeps the weights under one of these, beside the optimizer's.
_MODEL_KEYS = ("model", "state_dict")
_MOST_TENSORS = 100_000
_LARGEST_CODE = 2**26  # bytes of one file
_CALLED = {
    *("collections.OrderedDict", "collections.Counter", "argparse.Namespace"),
    *("builtins.set", "builtins.complex", "_codecs.encode"),
    *("torch.Size", "torch.device", "torch.serialization._get_layout"),
    *("torch.nn.parameter.Parameter", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_tensor"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_sparse_tensor",),
    *("torch._utils._rebuild_meta_tensor_no_storage",),
}
_ZIP = b"PK\x03\x04"  # by which PyTorch tells its archives from older files
# Pickles of an older file: two marks, the machine, the content, the keys.
_OLD_PARTS = 5
# Of one class: its name, and its tensors that a state dict has.
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]$",
    re.MULTILINE,
)


class TorchFileError(UserError):
    """A file of PyTorch's that cannot be read; the message does not name it."""


class _Scripted:
    """What stands for any object of TorchScript: attributes, and no code."""

    kind = ""  # the full name of its class


def read(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint or a TorchScript archive.

    Raises:
        TorchFileError: If the file is broken, or holds more than tensors.
        ImportError: If there is no PyTorch.
    """
    import torch  # noqa: F401

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that PyTorch did not write
            content = _content(path)
            return {name: _to_numpy(one) for name, one in _state_dict(content)}
    except TorchFileError:
        raise
    except pickle_scan.CallError as error:
        raise _refusal(str(error)) from error
    except pickle_scan.PickleError as error:
        raise TorchFileError(
            f"refused, because its pickle {error}, as none of PyTorch does. Nothing "
            "in it was run; download the file again, or save it again in PyTorch"
        ) from error
    except Exception as error:  # a damaged pickle may raise any kind
        if type(error).__name__ == "UnpicklingError" and "global" in str(error).lower():
            reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
            raise _refusal(" ".join(reason.split())[:200]) from error
        raise TorchFileError(
            f"not a whole PyTorch file ({_first_line(error)}). "
            f"It is {path.stat().st_size} bytes long; was it cut off while copying?"
        ) from error


def _refusal(reason: str) -> TorchFileError:
    return TorchFileError(
        f"refused, because it holds more than tensors and plain values ({reason}). "
        "Nothing in it was run. If you trust it, load it in PyTorch and save its state "
        "dict alone"
    )


def _content(path: Path) -> Any:
    """What the file's pickle holds; of TorchScript, a mapping."""
    import torch

    # The authors' checkpoints carry their command line, a plain record.
    allowed: list[Any] = [argparse.Namespace]
    file: Any = path
    scripted = False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size)
            scripted = any(n.endswith("/constants.pkl") for n in archive.namelist())
            if not scripted and (record := archive.testzip()):
                raise ValueError(f"its record {record} is not what was saved")
            if scripted:
                file, tensors_of = _without_code(archive), _tensors_of(archive)
                names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
                allowed = [_stand_in(name) for name in names]
                file.seek(0)
    _check_pickles(file, scripted)
    with torch.serialization.safe_globals(allowed):
        content = torch.load(file, map_location="cpu", weights_only=True)
    return dict(_attributes(content, tensors_of)) if scripted else content


def _check_pickles(file: Any, scripted: bool) -> None:
    """Looks at every pickle that PyTorch will open."""
    import torch

    def may_call(name: str) -> bool:
        stands_in = scripted and name.startswith(("__torch__.", "torch.jit._pickle."))
        return stands_in or name in _CALLED

    with contextlib.ExitStack() as opened:
        if isinstance(file, Path):
            file = opened.enter_context(file.open("rb"))
        start = file.read(len(_ZIP))
        file.seek(0)
        if start == _ZIP:
            # PyTorch's own reader: of a crafted archive others may read other records.
            record = torch._C.PyTorchFileReader(file).get_record("data.pkl")
            pickle_scan.check(io.BytesIO(record), may_call)
        else:
            for _ in range(_OLD_PARTS):
                pickle_scan.check(file, may_call)
        file.seek(0)


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Records are stored as they are, so that none is larger than the file."""
    for record in archive.infolist():
        is_code = "/code/" in record.filename
        if record.file_size > (_LARGEST_CODE if is_code else size):
            raise ValueError(
                f"its record {record.filename} claims {record.file_size:,} bytes"
            )


def _without_code(archive: zipfile.ZipFile) -> io.BytesIO:
    """The archive as the checkpoint that PyTorch would take it for without code."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checkpoint:
        for record in archive.infolist():
            name = record.filename.partition("/")[2]
            if name.startswith("data/") or name in ("data.pkl", "version", "byteorder"):
                checkpoint.writestr(f"archive/{name}", archive.read(record))
    copy.seek(0)
    return copy


def _stand_in(name: str) -> tuple[Any, str]:
    """What an unpickler is to take for a global of an archive."""
    if name.startswith(("torch.jit._pickle.build_", "torch.jit._pickle.restore_")):
        return _unchanged, name
    if not name.startswith("__torch__."):
        raise TorchFileError(
            f"refused, because it holds more than tensors and plain values (a global "
            f"{name[:200]}). Nothing in it was run"
        )
    return type("Scripted", (_Scripted,), {"kind": name}), name


def _unchanged(value: Any, *types: Any) -> Any:
    """What TorchScript calls to say of which type a list is."""
    return value


def _tensors_of(archive: zipfile.ZipFile) -> dict[str, set[str]]:
    """Full name of each class -> the attributes that are parameters or buffers."""
    found = {}
    for record in archive.infolist():
        _, is_code, file = record.filename.partition("/code/")
        if is_code and file.endswith(".py"):
            module = file.removesuffix(".py").replace("/", ".")
            text = archive.read(record).decode("utf-8")
            for name, *lists in _CLASS.findall(text):
                quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', ", ".join(lists))
                found[f"{module}.{name}"] = set(quoted)
    return found


def _attributes(
    root: Any, tensors_of: Mapping[str, set[str]]
) -> Iterator[tuple[str, Any]]:
    """The tensors of a module and of those inside it, under dotted names."""
    import torch

    waiting, visited = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, _Scripted):
            raise TorchFileError("it holds no module")
        mine = tensors_of.get(module.kind, set())
        for name, value in vars(module).items():
            visited += 1
            if visited > _MOST_TENSORS:  # or modules that hold themselves
                raise TorchFileError(f"it holds more than {_MOST_TENSORS:,} parts")
            if isinstance(value, _Scripted):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, torch.Tensor) and name in mine:
                yield f"{prefix}{name}", value


def _state_dict(content: Any) -> Iterator[tuple[str, Any]]:
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
            "holds no state dict, neither by itself nor under "
            f"{' or '.join(map(repr, _MODEL_KEYS))}; save the model's state_dict()"
        )
    # DistributedDataParallel's wrapper, when the checkpoint was made through it.
    return ((name.removeprefix("module."), one) for name, one in content.items())


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"a tensor is {tensor.layout} on {tensor.device}")
    tensor = tensor.detach()
    size = tensor.numel() * tensor.element_size()
    if not 0 < size <= tensor.untyped_storage().nbytes():
        raise ValueError(f"{list(tensor.shape)} numbers of a tensor are not there")
    if tensor.dtype == torch.bfloat16:  # numpy has no such dtype, but ours does
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
