"""Memory of the host that a training gives back and takes again: the C library keeps some of it."""

import ctypes
from functools import lru_cache

from orchestrator.types import Bytes

__all__ = ["hold_heap"]

# Parameters of glibc's mallopt(3), from its malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

_LARGE_BYTES: Bytes = 32 << 20
"""From which on a block is the kernel's own; the most that glibc comes to by itself."""

_FREE_BYTES: Bytes = 128 << 20
"""Free memory at the heap's end that is not given back.

The pools of a small model's checkpoint, or the activations of a small batch. glibc comes to 64 MiB
by itself, or to less, by the order in which blocks are freed: a short training then has 70,000 page
faults more, a tenth of its processor seconds.
"""


@lru_cache(maxsize=1)
def hold_heap() -> bool:
    """Let this process keep what is freed for the next step, or checkpoint, to take.

    Returns:
        Whether the C library can be told so: glibc can.
    """
    told = getattr(ctypes.CDLL(None), "mallopt", None)
    if told is None:
        return False
    return bool(told(_MMAP_THRESHOLD, _LARGE_BYTES) and told(_TRIM_THRESHOLD, _FREE_BYTES))
