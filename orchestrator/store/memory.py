"""A Store in memory: a list of events, dictionaries of rows, and a digest of the whole journal."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.messages import AttemptEvent, Event, ProgressReported
from orchestrator.states import TERMINAL
from orchestrator.types import Finding, Progress, RunId, RunStatus, Seconds

__all__ = ["MemoryStore"]


@dataclass(slots=True, eq=False)
class _Held:
    """What is kept of one run."""

    fence: int | None = None  # the attempt that may write
    rows: dict[int, ProgressReported] = field(default_factory=dict)


class MemoryStore:
    """Keeps the Store contract for as long as the process lives.

    Used by simulations and tests; the digest is the identity of a simulation.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._statuses: dict[RunId, RunStatus] = {}
        self._held: dict[RunId, _Held] = {}
        self._inbox: list[Event] = []
        self._keys: set[str] = set()
        self._findings: dict[Finding, Finding] = {}  # by what they are about

    def append(self, event: Event) -> bool:
        """Record an event; False, and nothing recorded, when it is fenced off."""
        if event.is_volatile:
            return True
        if isinstance(event, AttemptEvent):
            number = event.attempt.number
            held = self._held.get(event.attempt.run_id)
            if held is None or held.fence != number:
                return False
            if type(event) is ProgressReported:
                row = held.rows.get(event.progress.epoch)
                if row is not None and row.attempt.number >= number:
                    return False
                held.rows[event.progress.epoch] = event
                for finding in event.progress.findings:
                    self._note(finding)
        self._events.append(event)
        return True

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        """Update the rows that people read, and with them the fence."""
        for status in statuses:
            run_id = status.run_id
            self._statuses[run_id] = status
            held = self._held.get(run_id)
            if held is None:
                held = self._held[run_id] = _Held()
            held.fence = None if status.state in TERMINAL else status.attempt

    def receive(self, at: Seconds) -> Sequence[Event]:
        """Move what people asked for from the inbox to the journal, stamped `at`."""
        if not self._inbox:
            return ()
        events = tuple(replace(event, at=at) for event in self._inbox)
        self._inbox.clear()
        self._events.extend(events)
        return events

    def replay(self) -> Iterator[Event]:
        """Every recorded event in the order it was recorded."""
        return iter(tuple(self._events))

    def findings(self, model: str | None = None) -> Sequence[Finding]:
        """What recorded epochs told of settings that were tried, of a model or of all."""
        found = self._findings.values()
        return tuple(each for each in found if model is None or each.model == model)

    def _note(self, finding: Finding) -> None:
        about = replace(finding, value=None, told="", is_measured=True)
        known = self._findings.get(about)
        if finding.is_measured or known is None or not known.is_measured:
            self._findings.pop(about, None)  # the order is that of recording
            self._findings[about] = finding

    def ask(self, event: Event, key: str | None = None) -> bool:
        """Put a person's wish into the inbox; False when the same key was asked before."""
        if key is not None:
            if key in self._keys:
                return False
            self._keys.add(key)
        self._inbox.append(event)
        return True

    def statuses(self) -> Mapping[RunId, RunStatus]:
        """The published rows."""
        return dict(self._statuses)

    def progress(self, run_id: RunId) -> tuple[Progress, ...]:
        """One row per epoch of a run, in the order of epochs."""
        held = self._held.get(run_id)
        rows = {} if held is None else held.rows
        return tuple(rows[epoch].progress for epoch in sorted(rows))

    def digest(self) -> str:
        """SHA-256 over the journal, in hexadecimal; equal journals have equal digests."""
        digest = hashlib.sha256()
        for event in self._events:
            digest.update(repr(event).encode())
            digest.update(b"\n")
        return digest.hexdigest()
