"""One way to open files that may be damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Reader(NamedTuple):
    """One way to open files.

    Attributes:
      write: writes sound files to a folder.
      open: opens them, given the folder and the damaged file.
      files: patterns of the files that may be damaged, and the kind of their damage.
      check: fails if an opened value is not valid, given the sound value too.
    """

    write: Callable[[Path], object]
    open: Callable[[Path, Path], Any]
    files: dict[str, str]
    check: Callable[[Any, Any], None] = lambda value, sound: None


def equal(value, sound):
    """Fails unless a value is that of the sound files."""
    assert jax.tree.structure(value) == jax.tree.structure(sound)
    jax.tree.map(np.testing.assert_array_equal, value, sound)
