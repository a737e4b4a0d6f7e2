"""The seams of a sweep: where its runs are planned and trained, and where it is recorded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.sweep.events import SweepEvent
from orchestrator.sweep.space import Values
from orchestrator.types import CheckpointRef, Progress, RunId, RunState

__all__ = ["Judgement", "Look", "Recorder", "Runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether settings can run here. A violation above 0 says by how much of a limit not."""

    violations: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    need_bytes: int | None = None  # predicted peak; None where nothing could be predicted

    @property
    def fits(self) -> bool:
        """Whether the settings can run."""
        return all(value <= 0.0 for value in self.violations.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a run stands: its state, and the epochs after those that are known already."""

    state: RunState
    epochs: Sequence[Progress] = ()
    why: str = ""
    watts: float | None = None  # at most, of its part of its card; None where nobody knows


class Runs(Protocol):
    """Plans, submits and watches the runs of trials."""

    def judge(self, settings: Values) -> Judgement:
        """Plan settings on the cards that there are; starts nothing."""
        ...

    def submit(
        self, key: str, settings: Values, *, start: CheckpointRef | None, until: int | None
    ) -> RunId:
        """Ask for a run, durably; the same key is the same run.

        Args:
            key: Of the trial and its generation.
            settings: Keys of the config.
            start: A checkpoint of another run to go on from.
            until: Epochs after which the run ends, of all its epochs.
        """
        ...

    def look(self, runs: Mapping[RunId, int]) -> Mapping[RunId, Look]:
        """How runs stand, each with its epochs after the given one."""
        ...

    def cancel(self, runs: Collection[RunId]) -> None:
        """End runs at once; those that have ended are left alone."""
        ...

    def revive(self, runs: Collection[RunId]) -> None:
        """Let runs go on that were cancelled; others are left alone."""
        ...

    def checkpoint(self, run_id: RunId) -> CheckpointRef | None:
        """The newest checkpoint of a run."""
        ...


class Recorder(Protocol):
    """Where a sweep is recorded."""

    def record(self, events: Sequence[SweepEvent]) -> None:
        """Record what happened, all or nothing, durable when this returns."""
        ...
