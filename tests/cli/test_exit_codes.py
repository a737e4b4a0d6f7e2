"""The table of exit codes, one test each; and errors in the told form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import app as cli
from orchestrator.cli.app import main
from orchestrator.client.access import Run
from orchestrator.console import report
from orchestrator.types import RunState
from tests.cli.stored import make_store

FAKE = ("model=fake", "trainer=fake", "data=none", "epochs=1")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the same on machines with GPUs


def run(state: RunState) -> Run:
    return Run(id="r", project="p", state=state, attempts=1, epoch=1, epochs=1)


def test_0_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    assert main(["--version"]) == 0
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("orchestrator 0")


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["SUCCEEDED", "SUCCEEDED"], 0),
        (["FAILED", "FAILED"], 1),
        (["FAILED"], 1),
        (["SUCCEEDED", "FAILED"], 7),
        (["CANCELLED", "FAILED"], 7),
        (["SUCCEEDED", "CANCELLED"], 9),
        (["CANCELLED"], 9),
        (["RUNNING"], 9),
    ],
)
def test_0_1_7_9_are_told_from_how_the_runs_ended(states: list[str], code: int) -> None:
    assert report.exit_code([run(RunState(state)) for state in states]) == code


def test_1_an_unforeseen_error_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(home: Path | None) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(cli, "_client", broken)
    assert main(["ls"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error[E9000]")
    assert "Traceback" not in told
    (log,) = (tmp_path / "home" / "logs").iterdir()
    assert str(log) in told
    assert "ZeroDivisionError: nobody foresaw this" in log.read_text()
    assert main(["ls", "-v"]) == 1
    told = capsys.readouterr().err
    assert told.index("error[E9000]") < told.index("Traceback")


@pytest.mark.parametrize(
    "words",
    [
        ["trian", "x.yaml"],
        ["ls", "--jsno"],
        ["show"],
        ["ls", "--limit", "0"],
        ["ls", "--limit", "many"],
        ["train"],
        ["train", "epochs=3"],
        ["config", "show", "model=yolo11n.yaml", "epoch=3", "data=x"],
    ],
)
def test_2_usage_or_configuration(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error[E1")
    assert "\n  fix   " in err


def test_2_missing_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "model=yolov8n.pt", "data=made:digits-detect", "device=cpu"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error[E3003]")


def test_3_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nobody"]) == 3
    assert main(["train", "nowhere.yaml"]) == 3
    assert "E5001" in capsys.readouterr().err


def test_4_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *FAKE]) == 4
    told = capsys.readouterr().err
    assert "device=cpu" in told
    assert "--emulate-gpus" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word",
    [
        "resources.memory=8GiB",
        "resources.gpu_type=A100",
        "resources.memory=6.1GiB",
        "resources.gpus=2",
    ],
)
def test_5_a_run_that_no_card_can_ever_hold_is_not_started(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *FAKE, word, "--emulate-gpus", "RTX 2060 6GB"]) == 5
    told = capsys.readouterr().err
    assert told.startswith("error[E2001]")
    assert "RTX 2060" in told
    assert list(tmp_path.iterdir()) == []


def test_5_an_unfinished_run_that_can_never_run_here_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "home")
    assert main(["train", *FAKE, "--emulate-gpus", "RTX 4080 SUPER"]) == 5
    told = capsys.readouterr().err
    assert told.startswith("error[E2002]")
    assert "orc stop" in told


def test_6_ray_that_cannot_be_reached(tmp_path: Path) -> None:
    words = [*FAKE, "cluster.address=127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "train", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "ORC_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 6, done.stderr
    assert "error[E4001]" in done.stderr
    assert "Traceback" not in done.stderr


def test_130_ctrl_c_before_anything_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(home: Path | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_client", interrupted)
    assert main(["ls"]) == 130


def test_an_error_in_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *FAKE, "--json"]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    value = json.loads(out)
    assert value["schema_version"] == 1
    assert value["error"]["code"] == "E2010"
    assert value["error"]["exit_code"] == 4
