"""The nouns of a sweep: trials, what came of them, and what is decided about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.sweep.space import Values
from orchestrator.types import CheckpointRef, Metrics, RunId, Seconds

__all__ = ["SweepState", "Trial", "TrialEpoch", "TrialState", "Verdict"]


class SweepState(StrEnum):
    """Where a sweep stands."""

    RUNNING = "RUNNING"  # or it was left behind: then nobody conducts it, and it can be resumed
    STOPPED = "STOPPED"
    FINISHED = "FINISHED"


class TrialState(StrEnum):
    """Where a trial stands."""

    REFUSED = "REFUSED"  # it fits no card, or not the limits: never started
    SUGGESTED = "SUGGESTED"  # its run is not submitted yet
    ACTIVE = "ACTIVE"  # its run waits or trains
    PAUSED = "PAUSED"  # it waits for the others of its population
    FINISHED = "FINISHED"
    STOPPED = "STOPPED"  # early, by the scheduler of the sweep
    INFEASIBLE = "INFEASIBLE"  # it trained, and broke a limit that only measuring shows
    FAILED = "FAILED"

    @property
    def has_ended(self) -> bool:
        """True when nothing more comes of the trial."""
        return self not in (TrialState.SUGGESTED, TrialState.ACTIVE, TrialState.PAUSED)


class Verdict(StrEnum):
    """What follows from a reported epoch."""

    GO_ON = "GO_ON"
    STOP = "STOP"
    INFEASIBLE = "INFEASIBLE"
    PAUSE = "PAUSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEpoch:
    """One epoch of a trial, recorded once."""

    epoch: int
    metrics: Metrics
    seconds: Seconds
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One suggestion and what came of it. `settings` are its keys of the config.

    `generation` counts how often a trial of a population went on under other values; `donors` are
    the trials whose checkpoints it took over, with the epoch.
    """

    number: int
    state: TrialState
    values: Values
    settings: Values
    generation: int = 0
    run_id: RunId | None = None
    runs: tuple[RunId, ...] = ()
    epochs: tuple[TrialEpoch, ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)  # above 0: how far beyond
    start: CheckpointRef | None = None
    donors: tuple[tuple[int, int], ...] = ()
    why: str = ""
    at: Seconds = 0.0
    ended_at: Seconds | None = None

    @property
    def last(self) -> TrialEpoch | None:
        """The newest epoch."""
        return self.epochs[-1] if self.epochs else None
