"""What a sweep sees of its runs in a store."""

from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.messages import GangStarted, RunSubmitted
from orchestrator.sweep.store_runs import StoreRuns, trial_planner
from orchestrator.types import RunState
from tests.contracts.store import RUN, attempt, epoch, spec, status
from tests.sweep.journal import define


def test_an_epoch_is_seen_though_the_published_row_stays_as_it_was(tmp_path: Path) -> None:
    client = Client(tmp_path)
    with client.store() as store, store.drive(owner="a test"):
        runs = StoreRuns(define(), client, store, (), lambda: trial_planner(client, print))
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=0, state=RunState.PENDING)])
        assert runs.look({RUN: 0})[RUN].epochs == ()
        store.publish([status(attempt=1, state=RunState.STARTING)])
        store.append(GangStarted(at=2.0, attempt=attempt(1)))
        store.publish([status(attempt=1, state=RunState.RUNNING)])
        assert runs.look({RUN: 0})[RUN].epochs == ()
        for number in (1, 2):
            assert store.append(epoch(number, attempt(1)))
        look = runs.look({RUN: 0})[RUN]
        assert look.state is RunState.RUNNING
        assert [row.epoch for row in look.epochs] == [1, 2]
        assert [row.epoch for row in runs.look({RUN: 1})[RUN].epochs] == [2]
        assert runs.look({RUN: 2})[RUN].epochs == ()
