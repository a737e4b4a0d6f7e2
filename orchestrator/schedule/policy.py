"""What a policy is asked, in rounds: how many cards shall each run have from now on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.schedule.runs import RunRecord
from orchestrator.types import Pace, Progress, RunId, RunSpec, Seconds, StopMode

__all__ = ["Candidate", "Policy", "Sizing", "legal_widths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A run that could have cards, as a policy sees it.

    `speedups[i]` is how many times faster it trains to its end with `widths[i]` cards than with
    one; `speedups_now[i]` is that of the work that comes next, None where it is the same.
    `left_seconds` is what is left at the speed of one card; None while nothing is known. With
    `is_foreseen` it is told beforehand, or rests on enough epochs of its own.
    """

    run_id: RunId
    widths: tuple[int, ...]  # that are allowed, the least first
    speedups: tuple[float, ...]
    width: int  # cards that it has now; 0 while it waits
    left_seconds: Seconds | None
    attained_seconds: float  # card-seconds that it has had
    submitted_at: Seconds
    priority: int
    order: int  # FIFO inside a priority
    speedups_now: tuple[float, ...] | None = None
    is_foreseen: bool = True
    again_seconds: Seconds = 0.0  # at the speed of one card, if its width changes now


class Policy(Protocol):
    """Decides who has how many cards; a pure function of what it is told."""

    @property
    def round_seconds(self) -> Seconds:
        """Time between two decisions."""
        ...

    @property
    def resize_mode(self) -> StopMode:
        """How a gang is asked to leave so that it comes back with another width."""
        ...

    def widths(
        self, now: Seconds, candidates: Sequence[Candidate], num_gpus: int
    ) -> Mapping[RunId, int]:
        """Cards of each run in the next round; a run that is missing gets none.

        Args:
            now: The time.
            candidates: In the order of submission.
            num_gpus: Cards for all of them together.
        """
        ...


class Sizing(Protocol):
    """What follows from a policy, as far as the life of a run goes."""

    def joins(self, record: RunRecord) -> bool:
        """Take a run under the policy's care; False for one that it does not size."""
        ...

    def progressed(self, record: RunRecord, progress: Progress, now: Seconds) -> None:
        """An epoch of a run ends now."""
        ...

    def measured(self, record: RunRecord, pace: Pace) -> None:
        """Steps of a run have told what the epoch under way takes."""
        ...


def legal_widths(spec: RunSpec) -> tuple[int, ...]:
    """Numbers of cards that a run may have, least first.

    All that it asks for, or fewer among which its batch divides: then no card waits for another's
    odd sample.
    """
    most = spec.num_gpus
    widths = range(most if spec.min_gpus is None else spec.min_gpus, most + 1)
    return tuple(width for width in widths if width == most or spec.effective_batch % width == 0)
