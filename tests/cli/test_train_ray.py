"""`orc train` on a Ray of its own: to the end, through a kill, through Ctrl-C, handed over."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.client.access import Client
from orchestrator.types import RunState
from tests.cli.started import start

pytestmark = pytest.mark.ray

CONFIG = """\
cluster: {emulate: ["RTX 2060 6GB"]}
projects:
  - {name: one, trainer: fake, model: fake, data: none, epochs: 4, epoch_seconds: 0.4}
  - {name: two, trainer: fake, model: fake, data: none, epochs: 2, epoch_seconds: 0.1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exp.yaml").write_text(CONFIG)
    return tmp_path


def train(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, "train", "exp.yaml", *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    return iter(process.stderr)


def runs(folder: Path) -> dict[str, Any]:
    return {run.project: run for run in Client(folder / "home").runs()}


def test_every_project_is_trained_and_reported(folder: Path) -> None:
    code, out, err = train(folder, "--json")
    assert code == 0, err
    told = {run["project"]: run for run in json.loads(out)["runs"]}
    assert {name: run["state"] for name, run in told.items()} == {
        "one": "SUCCEEDED",
        "two": "SUCCEEDED",
    }
    assert all("emulated" in run["gpu"] for run in told.values())
    for run in told.values():
        names = {path.name for path in Path(run["folder"]).iterdir()}
        assert {"run.json", "config.yaml", "env.json", "events.jsonl", "metrics.jsonl"} <= names
        state = json.loads((Path(run["folder"]) / "run.json").read_text())["state"]
        assert state == "SUCCEEDED"
    assert "\x1b" not in err
    assert err.count(" epoch ") == 6


def test_some_failed_is_7_and_the_failure_is_told(folder: Path) -> None:
    code, out, _ = train(folder, "two.fail_at_epoch=1", "two.schedule.retry=0", "one.epochs=1")
    assert code == 7
    assert "USER_ERROR" in out
    assert "orc logs" in out


def test_after_a_kill_the_same_command_goes_on_and_no_epoch_is_counted_twice(
    folder: Path,
) -> None:
    process = start(folder, "train", "exp.yaml")
    for line in lines(process):
        if "epoch 2/4" in line:
            process.kill()
            break
    process.communicate(timeout=60)
    before = runs(folder)
    assert before["one"].state is RunState.RUNNING
    code, _, err = train(folder)
    assert code == 0, err
    assert "goes on with the unfinished run" in err
    after = runs(folder)
    assert {name: run.id for name, run in after.items()} == {
        name: run.id for name, run in before.items()
    }
    assert after["one"].attempts == 2
    rows = Client(folder / "home").show("one").progress
    assert [row.epoch for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_epoch_and_resume_finishes(
    number: signal.Signals, code: int, folder: Path
) -> None:
    process = start(folder, "train", "exp.yaml")
    told = ""
    for line in lines(process):
        told += line
        if "epoch 1/4" in line:
            rays = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if child.name() in ("raylet", "gcs_server")
            ]
            assert len(rays) == 2
            assert process.pid not in {os.getpgid(ray.pid) for ray in rays}, "it is not for Ray"
            os.killpg(process.pid, number)  # as a terminal does: the whole foreground group
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "orc resume" in err
    stopped = runs(folder)
    assert stopped["one"].state is RunState.CANCELLED
    assert 1 <= stopped["one"].epoch < 4
    resumed = start(folder, "resume", "one", "two")
    resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert {run.state for run in runs(folder).values()} == {RunState.SUCCEEDED}


def test_a_second_train_is_refused_or_handed_over_and_a_stopped_run_ends_with_9(
    folder: Path,
) -> None:
    process = start(folder, "train", "exp.yaml", "one.epochs=200")
    for line in lines(process):
        if "epoch 1/200" in line:
            break
    code, _, err = train(folder, "seed=7", "one.epochs=1")
    assert code == 1
    assert "error[E5006]" in err
    assert f"pid {process.pid}" in err
    assert "--hand-over" in err
    assert len(Client(folder / "home").runs()) == 2
    follower = start(folder, "train", "exp.yaml", "seed=7", "one.epochs=1", "--hand-over")
    told = ""
    for line in lines(follower):
        told += line
        if "submitted" in line:
            break
    assert "queued with the driver that runs already" in told
    Client(folder / "home").stop(
        next(r.id for r in Client(folder / "home").runs() if r.epochs == 200)
    )
    _, err = follower.communicate(timeout=120)
    assert follower.returncode == 0
    assert "epoch 1/1" in told + err
    process.communicate(timeout=90)
    assert process.returncode == 9
    assert [run.state for run in Client(folder / "home").runs()].count(RunState.SUCCEEDED) == 3
