"""Outputs of a stage: a directory that is finished or does not count.

`settings.json` is written first: the configuration that the stage depends on.
`artifact.json`, a summary, is written last: then the stage is finished. A start with
other settings is refused. `checksums.json` has the CRC-32 of the summary and of arrays.
"""

import contextlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths, strict_json

_CHECKSUMS = "checksums.json"
# The digest of the inputs is no key that could be set back.
_KINDS = {
    "inputs": "inputs (lists, labels, sentences, weights, or how this version reads "
    "them)"
}
_UNFINISHED = ("checkpoints", "views")  # a stage resumes from these


class ArtifactError(UserError):
    """An artifact that is missing, unreadable, not writable or of other settings."""


def redo_advice(directory: epath.Path) -> str:
    """Returns what to do if a stage's directory holds a damaged file."""
    return (
        f"Move {directory} and the directories of the stages after it elsewhere, and "
        "start the command of the run again: it makes these stages again"
    )


class Artifact:
    """One stage's directory under the workdir."""

    def __init__(
        self,
        directory: epath.Path,
        settings: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Binds the directory to the settings that it depends on.

        `defaults` are values of all keys of this version: an artifact of an older
        version lacks some, and may have keys that results do not depend on.
        """
        self.directory = directory
        self.settings = dict(settings)
        self._defaults = defaults or {}

    @property
    def finished(self) -> bool:
        """True if the stage has run to its end."""
        return (self.directory / "artifact.json").exists()

    def check(self) -> None:
        """Compares the settings on disk, if any, with the present ones.

        Raises:
          ArtifactError: values of keys differ, or the settings are lost.
        """
        path = self.directory / "settings.json"
        resumes = any((self.directory / name).exists() for name in _UNFINISHED)
        if not (path.exists() or resumes or self.finished):
            return
        stored, now = _read_object(path), self.settings
        before = {**self._defaults, **stored}
        changed = [
            f"{_KINDS.get(key, key)}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(now.keys() | (stored.keys() - self._defaults.keys()))
            if not _equal(key, before.get(key), now.get(key))
        ]
        if changed:
            raise ArtifactError(
                f"stage {self.directory.name!r} in {self.directory.parent} was made "
                "with another configuration:\n  " + "\n  ".join(changed) + "\n"
                "Use another --workdir, or set these keys back. To make the stage "
                "again, move its directory and those of the stages after it elsewhere"
            )

    def begin(self) -> None:
        """Makes the directory and writes the settings, in one process.

        Raises:
          ArtifactError: it cannot be written.
        """
        content = json.dumps(self.settings, indent=2)
        write_whole(self.directory / "settings.json", content)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary, in one process: the artifact is finished.

        Raises:
          ArtifactError: it cannot be written.
        """
        path = self.directory / "artifact.json"
        content = json.dumps(dict(summary), indent=2)
        _keep_checksum(path, zlib.crc32(content.encode()))
        write_whole(path, content)

    def summary(self) -> dict[str, Any]:
        """Returns what :meth:`finish` wrote.

        Raises:
          ArtifactError: the file is unreadable, or not what was written.
        """
        path = self.directory / "artifact.json"
        summary = _read_object(path)
        with _damage(path):
            _compare_checksum(path)
        return summary

    def save_arrays(self, **arrays: np.ndarray) -> None:
        """Writes each array as `NAME.npy`, in one process."""
        for name, array in arrays.items():
            write_array(self.directory / f"{name}.npy", array)

    def load_array(self, name: str) -> np.ndarray:
        """Reads an array; the first process compares it with its checksum.

        Raises:
          ArtifactError: the file is missing, no array, or not what was written.
        """
        path = self.directory / f"{name}.npy"
        with _damage(path):
            array = read_array(path)
            if console.is_first_process():
                _compare_checksum(path)
            return array


@contextlib.contextmanager
def written(path: epath.Path) -> Iterator[IO[Any]]:
    """Opens a file of a run, and makes its directory; see :func:`atomic.write`.

    Raises:
      ArtifactError: it cannot be written; no partial file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.write(path) as file:
            yield file
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror or error}. What was finished "
            "before stays; once that is mended, the same command goes on from there"
        ) from error


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a text file; a reader sees the old one or the new one.

    Raises:
      ArtifactError: it cannot be written.
    """
    with written(path) as file:
        file.write(text.encode())


def write_array(path: epath.Path, array: np.ndarray) -> None:
    """Writes an array and its checksum, in one process.

    Raises:
      ArtifactError: it cannot be written.
    """
    with written(path) as file:
        np.save(file, array, allow_pickle=False)
    _keep_checksum(path, atomic.crc32(path))


def read_array(path: epath.Path) -> np.ndarray:
    """Reads an array; from a local disk it is mapped into memory.

    Raises:
      OSError: there is no such file.
      ValueError: it holds no array.
    """
    try:
        if "://" in os.fspath(path):
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:  # numpy reads the header with Python's own parser
        raise ValueError(f"its header is damaged: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays")
    return array


def holds_array(path: epath.Path, shape: tuple[int, ...]) -> bool:
    """Returns True if a sound float32 array of this shape lies there.

    Warns about one that is damaged. Only the first process compares checksums.
    """
    if not path.exists():
        return False
    try:
        array = read_array(path)
        if console.is_first_process():
            _compare_checksum(path)
        if array.shape == shape and array.dtype == np.float32:
            return True
        fault = f"it holds {array.dtype}{list(array.shape)}"
    except (OSError, ValueError) as error:
        fault = str(error)
    console.warn(f"{os.fspath(path)} is made again: {fault}")
    return False


def _equal(key: str, before: Any, now: Any) -> bool:
    if key in paths.KEYS and isinstance(before, str) and isinstance(now, str):
        return paths.same(key, before, now)
    return bool(before == now)


def _keep_checksum(path: epath.Path, checksum: int) -> None:
    listed = path.parent / _CHECKSUMS
    sums = _read_object(listed) if listed.exists() else {}
    write_whole(listed, json.dumps({**sums, path.name: checksum}, indent=2))


def _compare_checksum(path: epath.Path) -> None:
    if _read_object(path.parent / _CHECKSUMS).get(path.name) != atomic.crc32(path):
        raise ValueError(f"it is not what was written, by {_CHECKSUMS}")


def _read_object(path: epath.Path) -> dict[str, Any]:
    with _damage(path):
        content = strict_json.parse(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
        return content


@contextlib.contextmanager
def _damage(path: epath.Path) -> Iterator[None]:
    try:
        yield
    except ArtifactError:  # names the file
        raise
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}). {redo_advice(path.parent)}"
        ) from error
