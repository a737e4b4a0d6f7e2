"""Sweeps in a store, conducted in this process over runs that are formulas."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.pool import NullPool

from orchestrator.client.access import Client
from orchestrator.sweep import asking
from orchestrator.sweep.block import read_space
from orchestrator.sweep.conducting import searcher_of
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.fold import fold
from orchestrator.sweep.records import StoreRecorder, SweepRecord, read_events, read_sweep
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import SweepState
from tests.sweep.journal import Journal, define

__all__ = ["SPACE", "conduct_stored", "config", "make_sweep", "studies"]

SPACE = {
    "lr0": {"loguniform": [1e-4, 1.0]},
    "batch": [16, 32, 64, 128],
    "optimizer": ["SGD", "AdamW"],
    "momentum": {"uniform": [0.5, 0.99], "when": {"optimizer": "SGD"}},
}


def studies(url: str) -> Any:
    """Optuna's own storage of a database, which leaves no connection open."""
    from optuna.storages import RDBStorage

    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def config(**project: object) -> dict[str, Any]:
    stub = {"name": "stub", "model": "fake", "data": "none", "trainer": "fake", "epochs": 9}
    return {"projects": [{**stub, "memory": {"predict": False}, **project}]}


def conduct_stored(client: Client, name: str, runs: StubRuns, *, most: int = 10_000) -> Conductor:
    """Conduct a sweep of the store to its end, or for so many looks at its runs."""
    definition = read_sweep(client, name).definition
    with client.store() as store:
        recorder = StoreRecorder(store, name)
        recorder.set_state(SweepState.RUNNING)
        ticks = iter(range(1000, 10_000_000))
        conductor = Conductor(
            definition, searcher_of(definition), runs, recorder, lambda: float(next(ticks))
        )
        conductor.replay(event for _, event in read_events(store, name))
        while not conductor.is_done and most > 0:
            conductor.advance()
            most -= 1
        if conductor.is_done:
            recorder.set_state(SweepState.FINISHED)
    return conductor


def make_record(runs: StubRuns | None = None, **changes: object) -> SweepRecord:
    """A sweep that was conducted to its end without a store: a second of waiting less a test."""
    definition = define(
        **{"trials": 24, "scheduler": "none", "space": read_space(SPACE), **changes}
    )
    journal, ticks = Journal(), iter(range(1000, 10_000_000))
    conductor = Conductor(
        definition, searcher_of(definition), runs or StubRuns(), journal, lambda: float(next(ticks))
    )
    while not conductor.is_done:
        conductor.advance()
    return SweepRecord(
        definition=definition,
        state=SweepState.FINISHED,
        at=0.0,
        trials=tuple(fold(journal.events()).trials.values()),
    )


def make_sweep(
    home: Path, runs: StubRuns | None = None, **block: object
) -> tuple[Client, SweepRecord]:
    """A sweep that was conducted to its end."""
    client = Client(home)
    given: Mapping[str, Any] = {
        "name": "night",
        "trials": 24,
        "search": "random",
        "scheduler": "none",
        "space": SPACE,
        **block,
    }
    definition = asking.create(client, config(), **given)
    conduct_stored(client, definition.name, runs or StubRuns())
    return client, read_sweep(client, definition.name)
