"""A sweep through store, driver and workers: early stopping, a killed driver, Tune's own result."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.stub_sweep import service_command
from orchestrator.client.access import Client
from orchestrator.console.board import run_of
from orchestrator.messages import AttemptEvent, GangStarted
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.trials import SweepState, TrialState
from orchestrator.types import RunState

pytestmark = pytest.mark.ray

BLOCK = {
    "name": "night",
    "trials": 6,
    "max_concurrent": 2,
    "search": "random",
    "scheduler": "asha",
    "order": "fixed",
    "space": {"lr0": {"loguniform": [1e-4, 1.0]}, "resources.memory": ["1GiB", "64GiB"]},
}


def config(home: Path) -> dict[str, Any]:
    project = {
        "name": "stub",
        "model": "fake",
        "data": "none",
        "trainer": "fake",
        "epochs": 4,
        "epoch_seconds": 0.05,
        "best_lr0": 0.01,
        "memory": {"predict": False},
    }
    return {"runs": str(home / "runs"), "projects": [project], "sweep": BLOCK}


def test_a_sweep_outlives_its_driver_and_becomes_a_result_grid(tmp_path: Path) -> None:
    client, killed, said = Client(tmp_path), list[int](), list[str]()
    asking.create(client, config(tmp_path))

    def kill_once(conductor: Conductor) -> None:
        with client.store() as store:
            driver = store.driver()
        if not killed and driver and conductor.study.num_events > 8:
            os.kill(driver.pid, signal.SIGKILL)
            killed.append(driver.pid)

    record = conduct(
        client, "night", said=said.append, watch=kill_once, command=service_command(tmp_path)
    )
    assert killed
    assert any("another one" in text for text in said)
    assert record.state is SweepState.FINISHED
    assert len(record.started) == 6
    assert all(trial.settings["resources.memory"] == "1GiB" for trial in record.started)
    for trial in record.started:
        assert trial.state in (TrialState.FINISHED, TrialState.STOPPED)
        assert [row.epoch for row in trial.epochs] == list(range(1, len(trial.epochs) + 1))
    with client.store() as store:
        starts = [event for _, event in store.events() if isinstance(event, GangStarted)]
    assert len({pid for start in starts for pid in start.pids}) < len(starts)

    from orchestrator.sweep import results

    grid = results("night", home=tmp_path)
    assert len(grid) == 6
    best = grid.get_best_result()
    assert record.best is not None
    assert best.config == dict(record.best.settings)
    assert best.checkpoint is not None


def test_a_trial_that_is_stopped_early_frees_its_card_and_leaves_no_process(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    client = Client(tmp_path)
    given = config(tmp_path)
    given["projects"][0] |= {"epochs": 40, "epoch_seconds": 0.1}
    block = {"search": "grid", "trials": 4, "max_concurrent": 1}
    rates = {"lr0": [0.01, 0.4, 0.7, 1.0]}  # the first is the best: the others stop at their rung
    given["sweep"] = {**BLOCK, **block, "space": rates}
    asking.create(client, given)
    record = conduct(client, "night", said=print, command=service_command(tmp_path))
    first, *others = record.trials
    assert first.state is TrialState.FINISHED
    assert [trial.state for trial in others] == [TrialState.STOPPED] * 3
    with client.store() as store:
        every, seconds = [event for _, event in store.events()], dict[int, float]()
        for trial in others:
            assert trial.run_id is not None
            own = [e for e in every if isinstance(e, AttemptEvent) and run_of(e) == trial.run_id]
            assert client.run(trial.run_id).state is RunState.CANCELLED
            assert trial.ended_at is not None
            seconds[trial.number] = own[-1].at - trial.ended_at
            assert len(store.progress(trial.run_id)) < 40
    assert max(seconds.values()) < 5.0, seconds  # from the decision to the free card
    record_testsuite_property("seconds to a free card", seconds)
    pids = {pid for event in every if isinstance(event, GangStarted) for pid in event.pids}
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
