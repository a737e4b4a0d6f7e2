"""What anyone may read of sweeps in a store, whoever conducts them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.client.access import Client
from orchestrator.errors import NotFoundError
from orchestrator.store.sql import SqlStore
from orchestrator.store.sweeps import SweepRow
from orchestrator.sweep.definition import Definition, Known, read_definition
from orchestrator.sweep.events import SweepEvent, entry_of, event_of
from orchestrator.sweep.fold import Study, fold, outcome_of
from orchestrator.sweep.trials import SweepState, Trial, TrialState
from orchestrator.types import Seconds

__all__ = [
    "StoreRecorder",
    "SweepRecord",
    "create_sweep",
    "every_sweep",
    "read_events",
    "read_sweep",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """One sweep with all its trials, by number."""

    definition: Definition
    state: SweepState
    at: Seconds
    trials: tuple[Trial, ...]

    @property
    def started(self) -> tuple[Trial, ...]:
        """Trials that were not refused."""
        return tuple(t for t in self.trials if t.state is not TrialState.REFUSED)

    @property
    def share_refused(self) -> float:
        """Part of the suggestions that were never started."""
        return 1.0 - len(self.started) / len(self.trials) if self.trials else 0.0

    def score(self, trial: Trial) -> tuple[float, ...]:
        """A trial's best epoch by the first metric, the higher the better; empty without one."""
        return tuple(outcome_of(trial, self.definition.metrics, self.definition.modes).scores)

    def metrics(self, trial: Trial) -> tuple[float, ...]:
        """As `score`, in the metrics' own signs."""
        scores = self.score(trial)
        signs = [1.0 if mode == "max" else -1.0 for mode in self.definition.modes]
        return tuple(s * sign for s, sign in zip(scores, signs, strict=False))

    @property
    def best(self) -> Trial | None:
        """The feasible trial with the highest score of the first metric."""
        scored = [trial for trial in self.trials if self.score(trial)]
        return max(scored, key=lambda trial: (self.score(trial)[0], -trial.number), default=None)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in every metric: the Pareto front, by number."""
        scored = [(self.score(trial), trial) for trial in self.trials]
        scored = [pair for pair in scored if pair[0]]
        # Whoever beats another one comes before it in this order, and is beaten by one of the front
        # or by nobody, so that the front alone is compared with.
        scored.sort(key=lambda pair: pair[0], reverse=True)
        found: list[tuple[Sequence[float], Trial]] = []
        for own, trial in scored:
            if not any(_beats(other, own) for other, _ in found):
                found.append((own, trial))
        return tuple(sorted((trial for _, trial in found), key=lambda trial: trial.number))

    def known(self) -> tuple[Known, ...]:
        """What another sweep may learn from this one."""
        names, modes = self.definition.metrics, self.definition.modes
        outcomes = [(t, outcome_of(t, names, modes)) for t in self.trials if t.state.has_ended]
        return tuple(
            Known(values=t.values, scores=tuple(o.scores), violations=o.violations)
            for t, o in outcomes
            if o.scores or not o.is_feasible
        )


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


class StoreRecorder:
    """Implements Recorder for who conducts a sweep; whoever did before is fenced off.

    Args:
        store: Open for as long as the sweep is conducted.
        name: The sweep.

    Raises:
        NotFoundError: E5031, there is no such sweep.
    """

    def __init__(self, store: SqlStore, name: str) -> None:
        self._store = store
        self._name = name
        self._epoch = store.sweeps.conduct(name)

    def record(self, events: Sequence[SweepEvent]) -> None:
        """Record what happened, all or nothing; raises StoreError E5032 when fenced off."""
        self._store.sweeps.record(self._name, self._epoch, [entry_of(event) for event in events])

    def set_state(self, state: SweepState) -> None:
        """Say what the sweep is doing; raises as `record`."""
        self._store.sweeps.set_state(self._name, state.value, self._epoch)


def every_sweep(client: Client) -> tuple[SweepRecord, ...]:
    """Every sweep of the store, the oldest first."""
    if not client.is_there:
        return ()
    with client.store() as store:
        return tuple(_record(store, row) for row in store.sweeps.every())


def create_sweep(store: SqlStore, definition: Definition, at: Seconds) -> None:
    """Record a sweep that nobody conducts yet.

    Raises:
        ConflictError: E5030, another one has its name.
    """
    row = SweepRow(
        name=definition.name,
        at=at,
        epoch=0,
        state=SweepState.RUNNING.value,
        substance=definition.substance,
        body=definition.text(),
    )
    store.sweeps.create(row)


def read_sweep(client: Client, name: str) -> SweepRecord:
    """One sweep.

    Raises:
        NotFoundError: E5031, there is none of this name; names those that there are.
    """
    if client.is_there:
        with client.store() as store:
            if row := store.sweeps.find(name):
                return _record(store, row)
            known = [each.name for each in store.sweeps.every()]
    else:
        known = []
    raise NotFoundError(
        f"there is no sweep {name!r:.80}",
        code="E5031",
        why=(f"there are: {', '.join(known[-10:]) or 'none'}",),
        fix=("orc sweep ls lists them",),
    )


def read_events(store: SqlStore, name: str, since: int = 0) -> Iterator[tuple[int, SweepEvent]]:
    """What a sweep recorded, as (number, event), after a number."""
    for number, entry in store.sweeps.journal(name, since):
        yield number, event_of(entry)


def _record(store: SqlStore, row: SweepRow) -> SweepRecord:
    study: Study = fold(event for _, event in read_events(store, row.name))
    return SweepRecord(
        definition=read_definition(row.body),
        state=SweepState(row.state),
        at=row.at,
        trials=tuple(study.trials.values()),
    )
