"""`runs:` at an address, as the commands tell it: refused in time, planned, asked for, found."""

import json
from pathlib import Path

import pytest

from orchestrator.cli.app import main
from orchestrator.client.access import Client

FAKE = ("model=fake", "trainer=fake", "data=none", "epochs=1", "device=cpu")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", ["plan", "train", "submit"])
@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("s3://bucket/runs", "E1043"),
        ("s3://AKIA:hunter2@bucket/runs", "E1042"),
        ("ftp://host/runs", "E1042"),
        ("file:///proc/none/runs", "E1045"),
    ],
)
def test_an_address_that_cannot_keep_runs_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, address: str, code: str
) -> None:
    assert main([command, *FAKE, f"runs={address}"]) == 2
    told = capsys.readouterr().err
    assert code in told
    assert "fix" in told
    assert "Traceback" not in told
    assert "hunter2" not in told
    assert Client(tmp_path / "home").runs() == ()
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_the_address_and_the_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"file://{tmp_path}/shared"
    assert main(["plan", *FAKE[:-1], f"runs={runs}", "--gpu", "RTX 2060 6GB"]) == 0
    told = capsys.readouterr().err
    assert f"runs are kept in {runs}" in told
    assert str(tmp_path / "home" / "scratch") in told
    assert "GB free" in told


def test_a_run_that_is_asked_for_is_told_by_its_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"file://{tmp_path}/shared"
    assert main(["submit", *FAKE, f"runs={runs}"]) == 0
    run_id = capsys.readouterr().out.strip()
    project = Client(tmp_path / "home").run(run_id).project
    assert main(["show", run_id]) == 0
    assert f"{runs}/{project}/{run_id}" in capsys.readouterr().out
    assert main(["show", run_id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert Path(shown["folder"]) == tmp_path / "runs" / project / run_id
    assert (tmp_path / "shared" / project / run_id / "config.yaml").is_file()
    assert main(["logs", run_id]) == 0
    assert f"no log yet in {runs}" in capsys.readouterr().err
    assert main(["rerun", run_id]) == 0
    again = capsys.readouterr().out.strip()
    assert Client(tmp_path / "home").show(again).spec.storage == runs
