"""What a sweep records, in the past tense; its state is a fold over these."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from orchestrator.errors import StoreError
from orchestrator.store.codec import from_plain, to_plain
from orchestrator.store.sweeps import SweepEntry
from orchestrator.sweep.space import Values
from orchestrator.sweep.trials import TrialState, Verdict
from orchestrator.types import CheckpointRef, Metrics, RunId, Seconds

__all__ = [
    "Continued",
    "Ended",
    "Launched",
    "Refused",
    "Reported",
    "Suggested",
    "SweepEvent",
    "entry_of",
    "event_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Of:
    """Something about one trial. `at` is Unix time in seconds."""

    at: Seconds
    trial: int

    name: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """What happens once within the sweep."""
        return f"{self.name}/{self.trial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested(_Of):
    """The searcher suggested values, and they fit."""

    values: Values
    settings: Values
    need_bytes: int | None = None  # predicted peak; None where it is not known

    name: ClassVar[str] = "suggested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(_Of):
    """The searcher suggested values that cannot run; nothing was started."""

    values: Values
    settings: Values
    violations: Mapping[str, float]
    why: str

    name: ClassVar[str] = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched(_Of):
    """A run was submitted for the trial."""

    run_id: RunId
    generation: int = 0

    name: ClassVar[str] = "launched"

    @property
    def key(self) -> str:
        """Once a generation."""
        return f"{self.name}/{self.trial}/{self.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(_Of):
    """An epoch was completed, and this was decided."""

    epoch: int
    metrics: Metrics
    seconds: Seconds
    verdict: Verdict
    generation: int = 0
    violations: Mapping[str, float] = field(default_factory=dict)

    name: ClassVar[str] = "reported"

    @property
    def key(self) -> str:
        """Once an epoch and generation."""
        return f"{self.name}/{self.trial}/{self.generation}/{self.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued(_Of):
    """A trial of a population goes on: from its own checkpoint, or as a clone of a better one."""

    generation: int
    donor: int
    epoch: int
    values: Values
    settings: Values
    start: CheckpointRef | None

    name: ClassVar[str] = "continued"

    @property
    def key(self) -> str:
        """Once a generation."""
        return f"{self.name}/{self.trial}/{self.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(_Of):
    """Nothing more comes of the trial."""

    state: TrialState
    why: str = ""

    name: ClassVar[str] = "ended"


SweepEvent: TypeAlias = Suggested | Refused | Launched | Reported | Continued | Ended

_KINDS: Mapping[str, type[SweepEvent]] = {
    kind.name: kind for kind in (Suggested, Refused, Launched, Reported, Continued, Ended)
}


def entry_of(event: SweepEvent) -> SweepEntry:
    """An event as a row of the store."""
    body = json.dumps(to_plain(event), allow_nan=False, separators=(",", ":"))
    return SweepEntry(at=event.at, kind=event.name, trial=event.trial, key=event.key, body=body)


def event_of(entry: SweepEntry) -> SweepEvent:
    """The event of a row.

    Raises:
        StoreError: E5010, it was written by another version, or is damaged.
    """
    kind = _KINDS.get(entry.kind)
    if kind is None:
        raise StoreError(f"a sweep recorded {entry.kind!r:.80}, which is unknown", code="E5010")
    return from_plain(kind, json.loads(entry.body))
