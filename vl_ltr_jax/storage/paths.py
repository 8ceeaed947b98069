"""Paths as a user types them: the home directory, and relative paths."""

import os
import re
from collections.abc import Iterable

# Keys of the configuration that may hold a path, and words that are no path there.
KEYS: dict[str, tuple[str, ...]] = {
    "data.root": (),
    "data.text_root": (),
    "data.cache": ("default",),
    "init.clip": ("tiny_clip",),
    "init.tokenizer": ("tiny_clip",),
    "init.vl_ltr": (),
    "mesh.compilation_cache": ("workdir",),
}
_HUB = ("init.clip", "init.tokenizer")  # ids of the hub, unless such a path exists
_WORD = re.compile(r"\A(--?[\w.]+=)?(~.*)", re.DOTALL)


def expand(path: str | os.PathLike[str]) -> str:
    """Returns a path with its leading `~` as the home directory.

    Shells leave `~` alone after `=`. Addresses of buckets stay.
    """
    return os.path.expanduser(os.fspath(path))


def expand_arguments(arguments: Iterable[str]) -> list[str]:
    """Returns a command line whose words and flag values have no leading `~`."""

    def expanded(match: re.Match[str]) -> str:
        return (match[1] or "") + expand(match[2])

    return [_WORD.sub(expanded, word) for word in arguments]


def absolute(key: str, value: str) -> str:
    """Returns a value of the configuration that means the same from any directory.

    Args:
      key: one of `KEYS`.
      value: as typed; a relative path is relative to the working directory.
    """
    path = expand(value)
    if not path or "://" in path or path in KEYS[key]:
        return path
    if key in _HUB and not os.path.exists(path):
        return path
    return os.path.abspath(path)


def same(key: str, before: str, now: str) -> bool:
    """Returns True if two values of a key name one place, or the first has moved.

    The digest of a run's inputs compares the contents. An old place that no longer
    exists has moved to the present one, on this machine or from another.
    """
    old, new = absolute(key, before), absolute(key, now)
    moved = os.path.isabs(old) and not os.path.exists(old) and os.path.exists(new)
    return old == new or moved
