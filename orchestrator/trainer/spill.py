"""Spilling to host memory: no error, a full card, and steps that became many times slower.

Drivers for Windows and WSL move what does not fit a card to the host's memory over PCIe, which is
10 to 20 times slower than the card's own.
"""

import statistics
from collections import deque
from dataclasses import dataclass, field

from orchestrator.types import DeviceMemory, Seconds

__all__ = ["StepTimes", "is_full"]

_COLLAPSE = 5.0  # times the median
_IN_A_ROW = 3  # a single slow step is the disk, or the garbage collector
_LEAST_STEPS = 16
_KEPT = 64
_FULL = 0.98


def is_full(memory: DeviceMemory) -> bool:
    """True when the driver has next to nothing left on the card."""
    return memory.used_bytes >= _FULL * memory.total_bytes


@dataclass(slots=True)
class StepTimes:
    """Seconds of the last steps at one micro-batch."""

    _normal: deque[Seconds] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _num_slow: int = 0

    def clear(self) -> None:
        """Begin anew, with another micro-batch."""
        self._normal.clear()
        self._num_slow = 0

    def add(self, seconds: Seconds) -> bool:
        """Note a step; True when the last three took at least five times the median.

        Slow steps are kept out of the median, or it would follow them.
        """
        if len(self._normal) >= _LEAST_STEPS:
            if seconds >= _COLLAPSE * statistics.median(self._normal):
                self._num_slow += 1
                return self._num_slow >= _IN_A_ROW
            self._num_slow = 0
        self._normal.append(seconds)
        return False
