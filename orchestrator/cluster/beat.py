"""How long a driver waits at most before it looks at what people ask for."""

from orchestrator.types import Seconds

__all__ = ["Beat"]

_USUAL: Seconds = 0.5
_BRISK: Seconds = 0.05
_AFTER_END: Seconds = 1.0  # whoever waited for a run asks anew
_AFTER_EPOCH: Seconds = 0.3  # a trial may be stopped by what it has reported


class Beat:
    """A look now and then, and many for a moment when an answer is likely."""

    def __init__(self) -> None:
        self._brisk_until: Seconds = 0.0

    def seconds(self, now: Seconds, until: Seconds | None) -> Seconds:
        """Until the next look, which is at `until` at the latest."""
        beat = _BRISK if now < self._brisk_until else _USUAL
        return beat if until is None else max(0.0, min(beat, until - now))

    def ended(self, now: Seconds) -> None:
        """A run has ended."""
        self._brisk_until = max(self._brisk_until, now + _AFTER_END)

    def reported(self, now: Seconds) -> None:
        """A trial of a sweep has reported an epoch."""
        self._brisk_until = max(self._brisk_until, now + _AFTER_EPOCH)
