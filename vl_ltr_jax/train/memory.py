"""Memory of a compiled program, and of a device."""

from typing import Any

import jax

# The rest is for batches on their way to the devices, and for their runtime.
_SHARE = 0.98


def fits(needed: float, available: int) -> bool:
    """Returns True if a program fits, always if the available bytes are 0, unknown."""
    return not available or needed <= _SHARE * available


def is_lack(error: Exception) -> bool:
    """Returns True if a compiler finds no room in the memory of a device.

    A kernel that exceeds the memory of a core (vmem) is another fault.
    """
    return "RESOURCE_EXHAUSTED" in str(error) and "vmem" not in str(error)


def limit(device: jax.Device) -> int:
    """Returns the bytes that programs may use on a device; 0 if it does not say."""
    return int((device.memory_stats() or {}).get("bytes_limit", 0))


def peak(program: Any) -> int:
    """Returns the bytes of a device at the peak of a compiled program.

    The TPU compiler tells it. Others tell the sum of what may be alive at once.
    """
    memory = program.memory_analysis()
    added = memory.output_size_in_bytes - memory.alias_size_in_bytes
    together = memory.argument_size_in_bytes + memory.temp_size_in_bytes + added
    return max(memory.peak_memory_in_bytes, together)
