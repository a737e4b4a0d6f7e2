"""The pace of an attempt by its first steps, told before an epoch is over."""

from dataclasses import dataclass, field

from orchestrator.types import Pace, Seconds, StepProgress

__all__ = ["PaceMeter"]

_LONG_ENOUGH: Seconds = 30.0  # of steps: what a start costs, and many steps of most models


@dataclass(slots=True)
class PaceMeter:
    """Measures from the first sign of life on, which leaves out how long the first step takes.

    Args:
        images_of_step: The effective batch.
    """

    images_of_step: int
    _first: tuple[Seconds, StepProgress] | None = field(default=None, init=False)
    _is_over: bool = field(default=False, init=False)

    def step(self, at: Seconds, step: StepProgress) -> Pace | None:
        """Take in a step; the pace, once, where the first epoch has lasted long enough for it.

        Args:
            at: When, on any clock that only goes forward.
            step: What the trainer says.
        """
        if self._is_over:
            return None
        if self._first is None:
            self._first = (at, step)
            return None
        began, first = self._first
        self._is_over = step.epoch != first.epoch  # the epoch itself has told
        if self._is_over or at - began < _LONG_ENOUGH or step.step <= first.step:
            return None
        self._is_over = True
        return Pace(
            epoch=step.epoch,
            seconds=(at - began) / (step.step - first.step) * step.num_steps,
            num_images=step.num_steps * self.images_of_step,
        )
