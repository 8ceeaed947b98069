"""One way to open files that may be damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Reader(NamedTuple):
    """A writer of sound files, and how to open and check them."""

    write: Callable[[Path], object]
    open: Callable[[Path, Path], Any]  # given the folder and the damaged file
    files: dict[str, str]  # patterns of files to damage, and the kind of damage
    check: Callable[[Any, Any], None] = lambda value, sound: None


def equal(value, sound):
    """Fails unless a value is that of the sound files."""
    assert jax.tree.structure(value) == jax.tree.structure(sound)
    jax.tree.map(np.testing.assert_array_equal, value, sound)
