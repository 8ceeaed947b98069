"""Memory that stays with the process: on the CPU, a step's arrays lie in it.

XLA's CPU backend allocates the temporary arrays of a program anew at each call. glibc
takes blocks of that size from the system and gives them back, so that a step of ViT-B
touches half a million fresh pages: 1 to 5 seconds of system time out of 15. Kept in one
heap they are fresh once. Not in the paper.
"""

import ctypes
import importlib.metadata
import importlib.util

import jax

# Options of mallopt(3): their numbers in malloc.h, and values.
_TRIM_THRESHOLD, _NEVER = -1, -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def runs_on_cpu() -> bool:
    """Whether only the CPU is asked for, or no accelerator's plugin installed.

    Starts no device: JAX may still fall back to the CPU where this is False.
    """
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def keep() -> bool:
    """Keeps freed memory for the arrays of the next step, from now on.

    To be called before JAX starts its threads: a thread that has an arena of its own
    keeps it. Resident memory stays at its peak, but for moments: protobuf gives back
    what is free after every 10,000 blocks of its own.

    Returns:
      Whether the C library understands; musl's and those outside of Linux do not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER))
    return all(mallopt(option, value) == 1 for option, value in options)
