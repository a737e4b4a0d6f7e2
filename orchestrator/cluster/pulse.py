"""Signs of life of one attempt, and how long it may say nothing before it counts as hung."""

from dataclasses import dataclass, replace

from orchestrator.types import Progress, Seconds, StepProgress

__all__ = ["Patience", "Pulse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long silence is taken for work.

    A worker that is killed although it works loses what it did since its checkpoint; one that
    hangs costs its card until it is found. So the limits are generous, and follow what was
    measured.
    """

    start_seconds: Seconds = 3600.0  # for what was never measured: start, caches, first validation
    floor_seconds: Seconds = 600.0  # a disk or a network may stand still for minutes
    multiple: float = 20.0  # of the longest silence after which the attempt went on
    answer_seconds: Seconds = 30.0  # for the worker's answer, and for its stacks
    meeting_seconds: Seconds = 7200.0  # for ranks to meet, and each thing they compute together

    def of_run(self, hang_seconds: Seconds | None) -> "Patience":
        """The limits of a run; a person's word replaces those that follow its pace.

        What torch waits for other ranks is longer: who hangs is found by its silence, and torch
        would only say that somebody did not come.
        """
        if hang_seconds is None:
            return self
        return replace(
            self,
            start_seconds=hang_seconds,
            floor_seconds=hang_seconds,
            multiple=0.0,
            meeting_seconds=2 * (hang_seconds + self.answer_seconds),
        )


class Pulse:
    """When an attempt last said something, and the longest it was silent so far.

    Silence inside an epoch (from step to step) and between epochs (validation, checkpoint, the
    start of the loaders) is measured apart: the one takes a second where the other takes minutes.

    Args:
        patience: The limits.
        at: When the attempt began to train, on any clock that only goes forward.
    """

    def __init__(self, patience: Patience, at: Seconds) -> None:
        self._patience = patience
        self._at = at
        self._last: Progress | StepProgress | None = None
        self._stride: int | None = None  # steps from one sign to the next
        self._longest_step: Seconds = 0.0
        self._longest_pause: Seconds | None = None

    def sign(self, at: Seconds, said: Progress | StepProgress | None = None) -> None:
        """The attempt said something, or is known to have been alive at `at`."""
        silence, last = max(at - self._at, 0.0), self._last
        self._at = max(self._at, at)
        if said is None:
            if self.is_mid_epoch:
                self._longest_step = max(self._longest_step, silence)
            return
        stride = _stride(last, said)
        if stride is not None:
            self._longest_step = max(self._longest_step, silence)
        elif last is not None:
            self._longest_pause = max(self._longest_pause or 0.0, silence)
        self._last, self._stride = said, stride

    @property
    def is_mid_epoch(self) -> bool:
        """True when the next sign is surely a step of the same epoch."""
        last = self._last
        if not isinstance(last, StepProgress) or self._stride is None:
            return False
        return last.step + 2 * self._stride < last.num_steps

    @property
    def longest(self) -> Seconds | None:
        """The longest silence of the kind that is awaited now; None before the first."""
        return self._longest_step if self.is_mid_epoch else self._longest_pause

    @property
    def limit(self) -> Seconds:
        """Silence that is longer than this counts as a hang."""
        longest = self.longest
        if longest is None:
            return self._patience.start_seconds
        return max(self._patience.floor_seconds, self._patience.multiple * longest)

    def silence(self, at: Seconds) -> Seconds:
        """Seconds since the last sign."""
        return at - self._at


def _stride(last: Progress | StepProgress | None, said: Progress | StepProgress) -> int | None:
    """Steps between two signs of one epoch; None when they are not two steps of one."""
    if not isinstance(last, StepProgress) or not isinstance(said, StepProgress):
        return None
    return said.step - last.step if said.epoch == last.epoch else None
