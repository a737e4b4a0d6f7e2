"""A driver that goes through runs one after the other and says what was acknowledged.

It can be killed at any moment and started again: it goes on with the run it finds unfinished.
Run as ``python -m tests.store.crash_child DATABASE RUNS``, or in a process of its own.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace

from orchestrator.messages import GangFinished, ProgressReported, RunSubmitted
from orchestrator.states import RunState
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId
from tests.contracts.store import attempt, epoch, spec, status

__all__ = ["EPOCHS", "assert_nothing_lost", "drive_runs", "name"]

EPOCHS = 3


def name(number: int) -> RunId:
    return RunId(f"run-{number:04d}")


def drive_runs(path: str, num_runs: int, acknowledge: Callable[[str], object]) -> None:
    """Complete runs until there are `num_runs`, acknowledging every durable step."""
    with SqlStore(path) as store, store.drive("child"):
        acknowledge("driving")
        done = {row.run_id for row in store.statuses() if row.state.is_terminal}
        for number in range(num_runs):
            run = name(number)
            if run in done:
                continue
            wish = RunSubmitted(at=1.0, spec=replace(spec(), run_id=run))
            store.ask(wish, f"key-{number}")
            acknowledge(f"asked {run}")
            for event in store.receive(2.0):
                assert isinstance(event, RunSubmitted)
                acknowledge(f"submitted {event.spec.run_id}")
            store.publish([status(run, attempt=1, state=RunState.RUNNING)])
            acknowledge(f"published {run}")
            for n in range(1, EPOCHS + 1):
                store.append(epoch(n, attempt(1, run)))
                acknowledge(f"epoch {run} {n}")
            store.append(GangFinished(at=9.0, attempt=attempt(1, run)))
            acknowledge(f"finished {run}")
            store.publish([status(run, attempt=1, state=RunState.SUCCEEDED)])
            acknowledge(f"succeeded {run}")


def assert_nothing_lost(path: str, acknowledged: set[str]) -> None:
    """Every acknowledged step is there once, and nothing is there twice."""
    with SqlStore(path) as store:
        with store._database.engine.connect() as connection:  # SQLite's own opinion of the file
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        events = list(store.replay())
        submitted = [event.spec.run_id for event in events if isinstance(event, RunSubmitted)]
        asked = [event.spec.run_id for event in store.waiting() if isinstance(event, RunSubmitted)]
        epochs = [
            (event.attempt.run_id, event.progress.epoch)
            for event in events
            if isinstance(event, ProgressReported)
        ]
        assert len(set(submitted + asked)) == len(submitted + asked)
        assert len(set(epochs)) == len(epochs)
        rows = {row.run_id: row for row in store.statuses()}
        found = {f"asked {run}" for run in submitted + asked}
        found |= {f"submitted {run}" for run in submitted}
        found |= {f"published {run}" for run in rows}
        found |= {f"epoch {run} {row.epoch}" for run in rows for row in store.progress(run)}
        assert {f"epoch {run} {n}" for run, n in epochs} == {f for f in found if "epoch" in f}
        found |= {f"finished {e.attempt.run_id}" for e in events if isinstance(e, GangFinished)}
        found |= {f"succeeded {run}" for run, row in rows.items() if row.state.is_terminal}
        assert acknowledged - {"driving"} <= found


if __name__ == "__main__":
    drive_runs(sys.argv[1], int(sys.argv[2]), lambda text: os.write(1, f"{text}\n".encode()))
