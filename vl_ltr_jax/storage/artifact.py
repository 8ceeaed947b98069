"""What a stage leaves behind: a directory that is whole or does not count.

A directory holds `settings.json`, the configuration the stage depends on, from its
first moment, and `artifact.json`, a summary, from its last: only then is it finished.
Starting again with other settings is refused, since the rest would not belong
together. Summaries and arrays have checksums.
"""

import contextlib
import dataclasses
import io
import json
import os
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths, strict_json

# What the digest of the inputs stands for; it is no key that could be set back.
_KINDS = {
    "inputs": "inputs (lists, labels, sentences, weights, or how this version reads "
    "them)"
}
_UNFINISHED = ("checkpoints", "views")  # what a stage goes on from


class ArtifactError(UserError):
    """An artifact that is missing, unreadable, not writable or of other settings."""


def made_again(directory: epath.Path) -> str:
    """Returns what to do where a stage's directory holds a damaged file."""
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
        *,
        defaults: Mapping[str, Any] = types.MappingProxyType({}),
        matters: Callable[[str], bool] = bool,
    ) -> None:
        """Binds the directory to the settings it must have been made with.

        Args:
          directory: of the stage.
          settings: keys and values that the artifact depends on.
          defaults: values of keys that an older version did not know.
          matters: returns True if a key on disk is one that artifacts depend on.
        """
        self.directory = directory
        self.settings = dict(settings)
        self._defaults, self._matters = defaults, matters

    @property
    def finished(self) -> bool:
        """Whether the stage has run to its end."""
        return (self.directory / "artifact.json").exists()

    def check(self) -> None:
        """Compares the settings on disk, if any, with the present ones.

        Raises:
          ArtifactError: naming every key whose value differs; or if the settings of
            what lies there are gone.
        """
        path = self.directory / "settings.json"
        going_on = any((self.directory / name).exists() for name in _UNFINISHED)
        if not (path.exists() or going_on or self.finished):
            return
        made_with = _read_json(path)
        # An older version kept keys that no stage depends on.
        before = {key for key in made_with if self._matters(key)}
        keys = sorted(self.settings.keys() | before)
        # A key that did not exist then was what is the default today.
        then = {key: made_with.get(key, self._defaults.get(key)) for key in keys}
        changed = [
            f"{_KINDS.get(key, key)}: {then[key]!r} then, "
            f"{self.settings.get(key)!r} now"
            for key in keys
            if not _equal(key, then[key], self.settings.get(key))
        ]
        if changed:
            raise ArtifactError(
                f"stage {self.directory.name!r} in {self.directory.parent} was made "
                "with another configuration:\n  " + "\n  ".join(changed) + "\n"
                "Use another --workdir, or set these keys back. To make the stage "
                "again, move its directory and those of the stages after it elsewhere"
            )

    def begin(self) -> None:
        """Makes the directory and writes the settings (on one process only).

        Raises:
          ArtifactError: if that fails.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.lack(error) or ArtifactError(
                f"{self.directory} cannot be made ({error.strerror or error}); move "
                "away what lies there"
            ) from error
        write_whole(
            self.directory / "settings.json", json.dumps(self.settings, indent=2)
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Declares the artifact whole (on one process only)."""
        content = json.loads(json.dumps(dict(summary)))  # as it will be read
        content["crc32"] = _crc32(content)
        write_whole(self.directory / "artifact.json", json.dumps(content, indent=2))

    def summary(self) -> dict[str, Any]:
        """What :meth:`finish` was given.

        Raises:
          ArtifactError: if the file cannot be read, or is not what a stage leaves.
        """
        path = self.directory / "artifact.json"
        summary = _read_json(path)
        if absent := sorted({"seconds", "versions"} - summary.keys()):
            raise ArtifactError(
                f"{path} has no {' and no '.join(absent)}. {made_again(self.directory)}"
            )
        # Older ones have no checksum.
        if summary.pop("crc32", wanted := _crc32(summary)) != wanted:
            raise ArtifactError(
                f"{path} is not what was written. {made_again(self.directory)}"
            )
        return summary

    def save_arrays(self, **arrays: np.ndarray) -> None:
        """Writes each array as `NAME.npy` (on one process only)."""
        for name, array in arrays.items():
            write_array(self.directory / f"{name}.npy", array)

    def load_array(self, name: str) -> np.ndarray:
        """Reads an array written by :meth:`save_arrays`.

        One process for all compares it with its checksum.

        Raises:
          ArtifactError: if the file is missing, not an array, or not what was written.
        """
        path = self.directory / f"{name}.npy"
        try:
            array = read_array(path)
            # Its data begin at a multiple of 64; older files end with them.
            size = path.stat().length
            if console.is_first_process() and (size - array.nbytes) % 64:
                _check_sum(path)
            return array
        except (OSError, ValueError) as error:
            raise errors.lack(error) or ArtifactError(
                f"{path} cannot be read ({error}). {made_again(self.directory)}"
            ) from error


@contextlib.contextmanager
def written(path: epath.Path) -> Iterator[IO[Any]]:
    """Opens a file of a run, and makes its directory; see :func:`atomic.write`.

    Raises:
      ArtifactError: if it cannot be written, with what is wrong; nothing is left.
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
    """Writes a text file so that a reader sees the old one or the new one.

    Raises:
      ArtifactError: if it cannot be written.
    """
    with written(path) as file:
        file.write(text.encode())


def write_array(path: epath.Path, array: np.ndarray) -> None:
    """Writes an array, and a checksum behind it; a reader sees all of it or none.

    Raises:
      ArtifactError: if it cannot be written.
    """
    with written(path) as file:
        summed = _Summed(file)
        np.save(summed, array, allow_pickle=False)
        file.write(summed.crc32.to_bytes(4, "little"))


@dataclasses.dataclass
class _Summed:
    """A file that is written, and the checksum of what is in it."""

    file: IO[Any]
    crc32: int = 0

    def write(self, part: bytes) -> int:
        self.crc32 = zlib.crc32(part, self.crc32)
        return self.file.write(part)


def _check_sum(path: epath.Path) -> None:
    if atomic.crc32(path) != atomic.SOUND:
        raise ValueError("it is not what was written")


def read_array(path: epath.Path) -> np.ndarray:
    """Reads an array; on a local disk it is mapped, and read where it is looked at.

    Raises:
      OSError: if there is no such file.
      ValueError: if it holds no array.
    """
    try:
        if "://" in os.fspath(path):
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise
    except EOFError as error:
        raise ValueError("the file is empty") from error
    except Exception as error:  # numpy reads the header with Python's own parser
        raise ValueError(f"its header is damaged: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays")
    return array


def holds_array(path: epath.Path, shape: tuple[int, ...]) -> bool:
    """Whether a whole float32 array of this shape lies there; says why one does not.

    One process compares it with its checksum: to be asked on the first.
    """
    if not path.exists():
        return False
    try:
        found = read_array(path)
        if console.is_first_process():
            _check_sum(path)
        if found.shape == shape and found.dtype == np.float32:
            return True
        fault = f"it holds {found.dtype}{list(found.shape)}"
    except (OSError, ValueError) as error:
        fault = str(error)
    console.warn(f"{os.fspath(path)} is made again: {fault}")
    return False


def _equal(key: str, before: Any, now: Any) -> bool:
    if key in paths.KEYS and isinstance(before, str) and isinstance(now, str):
        return paths.same(key, before, now)
    return bool(before == now)


def _crc32(summary: Mapping[str, Any]) -> int:
    kept = {key: value for key, value in summary.items() if key != "crc32"}
    return zlib.crc32(json.dumps(kept, sort_keys=True).encode())


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        content = strict_json.parse(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}). {made_again(path.parent)}"
        ) from error
    return content
