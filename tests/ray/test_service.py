"""A driver as a service: it takes asks while idle, outlives its terminal, leaves when asked to."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.client.access import Client
from orchestrator.messages import GangStarted, RunSubmitted
from orchestrator.types import RunId, RunSpec, RunState, TrainSettings

pytestmark = pytest.mark.ray

CONFIG = """\
projects:
  - {name: one, trainer: fake, model: fake, data: none, epochs: 3, epoch_seconds: 0.2}
"""


def variables(home: Path) -> dict[str, str]:
    return {**os.environ, "ORC_HOME": str(home), "OMP_NUM_THREADS": "1", "ORC_CONFIG": "none"}


def orc(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=home.parent,
        env=variables(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def ended(home: Path, run_id: str) -> RunState:
    return Client(home).wait(run_id, timeout=120).state


def stub(home: Path, number: int, epochs: int = 3) -> RunSpec:
    run_id = RunId(f"20260101-000000-stub-run-{number:04x}")
    return RunSpec(
        run_id=run_id,
        project="stub",
        trainer="fake",
        settings=TrainSettings(
            model="fake", data="none", imgsz=32, epochs=epochs, options={"epoch_seconds": 0.2}
        ),
        effective_batch=8,
        folder=str(home / "runs" / run_id),
    )


def lines_of(terminal: int) -> Iterator[str]:
    """What appears on a terminal, a line at a time."""
    text = b""
    while True:
        text += os.read(terminal, 4096)
        *lines, text = text.split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in lines)


def test_a_terminal_that_is_closed_harms_neither_the_driver_nor_the_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = Client(home)
    pid, terminal = pty.fork()
    if pid == 0:  # the child leads a session whose terminal this is
        command = [sys.executable, "-m", "jobs.load_driver", "ray", str(home)]
        os.execve(sys.executable, command, variables(home))  # noqa: S606 - as S603
    try:
        shown = lines_of(terminal)
        assert any("joined" in line for line in shown)
        begun = time.time()
        asked = stub(home, 1, epochs=30)
        client.submit([asked], ["night"])
        assert any("attempt 1 started" in line for line in shown)
        taken = {type(event): event.at for _, event in client.events(asked.run_id)}
        assert taken[RunSubmitted] - begun < 5.0, "an idle driver looks every half second"
        assert GangStarted in taken
        os.close(terminal)  # the system sends SIGHUP to the session
        late = stub(home, 2)
        client.submit([late])
        assert ended(home, asked.run_id) is RunState.SUCCEEDED
        assert ended(home, late.run_id) is RunState.SUCCEEDED
        assert client.run(asked.run_id).attempts == 1, "it was never interrupted"
        assert client.driver() is not None
        assert "epoch" in (home / "logs" / "serve.log").read_text(), "lines go on in a file"
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    assert client.driver() is None


def test_the_life_of_a_service(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "exp.yaml").write_text(CONFIG)
    started = orc(home, "serve", "--background", "--emulate-gpus", "RTX 2060 6GB", "--json")
    assert started.returncode == 0, started.stderr
    told: dict[str, Any] = json.loads(started.stdout)
    assert told["ready"]
    driver = psutil.Process(told["pid"])
    try:
        assert os.getsid(driver.pid) == driver.pid, "it has a session of its own"
        second = orc(home, "serve")
        assert second.returncode == 1
        assert "E5006" in second.stderr
        assert f"pid {driver.pid}" in second.stderr
        asked = orc(home, "submit", "exp.yaml", "--key", "k", "--wait", "--json")
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["runs"][0]["state"] == "SUCCEEDED"
        again = orc(home, "submit", "exp.yaml", "--key", "k", "--json")
        (same,) = json.loads(again.stdout)["runs"]
        assert not same["is_new"]
        never = orc(home, "submit", "exp.yaml", "resources.gpu_type=[A100]")
        assert never.returncode == 5, never.stderr
        _leave_and_go_on(home, driver)
    finally:
        if driver.is_running():
            driver.kill()


def _leave_and_go_on(home: Path, driver: psutil.Process) -> None:
    """Asked to leave, a driver lets its gang save; killed, whoever waits is told so."""
    long = orc(home, "rerun", "one", "epochs=200")
    run_id = long.stdout.strip()
    follower = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "events", "-f", "--run", run_id],
        env=variables(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert any("epoch 2/200" in line for line in follower.stdout)
    follower.kill()
    follower.communicate()
    left = orc(home, "serve", "--stop")
    assert left.returncode == 0, left.stderr
    assert "1 unfinished run(s) go on with the next one" in left.stderr
    driver.wait(30)
    record = Client(home).show(run_id)
    assert record.run.state is RunState.PENDING
    assert record.checkpoints[0].epoch == record.run.epoch, "the last epoch was saved"
    started = orc(home, "serve", "--background", "--emulate-gpus", "RTX 2060 6GB", "--json")
    pid = json.loads(started.stdout)["pid"]
    try:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "wait", run_id],
            env=variables(home),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert any("epoch" in line for line in waiting.stderr), "it goes on"
        os.kill(pid, signal.SIGKILL)
        waiting.communicate(timeout=60)
        assert waiting.returncode == 75
        assert orc(home, "serve", "--status").returncode == 3
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
