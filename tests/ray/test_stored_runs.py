"""Runs at an address on a Ray of their own: killed and gone on from there, read by the commands."""

import re
from pathlib import Path

import psutil
import pytest

from orchestrator.client.access import Client
from orchestrator.types import RunState
from tests.cli.started import start

pytestmark = pytest.mark.ray

CONFIG = """\
cluster: {{emulate: ["RTX 2060 6GB"]}}
runs: file://{shared}
projects:
  - {{name: one, trainer: fake, model: fake, data: none, epochs: 6, epoch_seconds: 0.5}}
"""


def kill_worker(folder: Path) -> None:
    """Kill the process whose output goes to the scratch of the attempt."""
    scratch = str(folder / "home" / "scratch")
    for process in psutil.process_iter():
        try:
            if any(file.path.startswith(scratch) for file in process.open_files()):
                process.kill()
                return
        except psutil.Error:
            continue
    raise AssertionError("no process writes there")


def test_a_killed_run_goes_on_from_its_address_and_leaves_no_scratch(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (tmp_path / "exp.yaml").write_text(CONFIG.format(shared=shared))
    driver = start(tmp_path, "train", "exp.yaml")
    assert driver.stderr is not None
    for line in driver.stderr:
        if re.search(r"epoch 2/6", line):
            kill_worker(tmp_path)
            break
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err

    client = Client(tmp_path / "home")
    (run,) = client.runs()
    record = client.show(run.id)
    assert (run.state, run.attempts) == (RunState.SUCCEEDED, 2)
    assert [row.epoch for row in record.progress] == [1, 2, 3, 4, 5, 6]
    assert run.address == f"file://{shared}/one/{run.id}"
    assert all(ref.path.startswith(f"{run.address}/checkpoints/") for ref in record.checkpoints)
    there = shared / "one" / run.id
    assert [path.name for path in sorted((there / "checkpoints" / "2").iterdir())] == [
        "epoch-0005.best.ckpt",
        "epoch-0006.best.ckpt",
    ]
    scratch = [path for path in (tmp_path / "home" / "scratch").rglob("*") if path.is_file()]
    assert scratch == []
    assert [path.name for path in client.logs(run.id)] == ["attempt-1.log", "attempt-2.log"]

    shown = start(tmp_path, "show", run.id)
    out, _ = shown.communicate(timeout=60)
    assert f"{run.address}/files/attempt-2" in out
