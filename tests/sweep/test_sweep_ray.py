"""A sweep through store, driver and workers: early stopping, a killed driver, Tune's own result."""

import os
import signal
from pathlib import Path

import pytest

from jobs.stub_sweep import service_command
from orchestrator.client.access import Client
from orchestrator.messages import GangStarted
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.trials import SweepState, TrialState

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


def config(home: Path) -> dict[str, object]:
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
