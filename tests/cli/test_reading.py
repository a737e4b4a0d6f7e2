"""ls, show, queue, explain, stop, logs: from the store alone, for people and as JSON."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.client.access import Run
from orchestrator.types import CheckpointRef, Explanation, Progress, RunState
from tests.cli.stored import STATES, Filled, make_store

DESIGN_FIELDS = {
    "id",
    "project",
    "state",
    "attempts",
    "epoch",
    "epochs",
    "metrics",
    "best",
    "gpu",
    "reason",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return make_store(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own(tmp_path: Path) -> Filled:
    return make_store(tmp_path / "home")


def orc(filled: Filled, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*words, "--home", str(filled.client.home)])
    out, err = capsys.readouterr()
    return code, out, err


def orc_json(filled: Filled, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    _, out, err = orc(filled, capsys, *words, "--json")
    assert err == ""
    value = json.loads(out)
    assert value["schema_version"] == 1
    assert isinstance(value, dict)
    return value


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_ls_tells_every_run_with_the_kept_names(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = orc_json(filled, capsys, "ls")["runs"]
    assert {run["project"]: run["state"] for run in runs} == STATES
    assert all(set(run) == names(Run) and set(run) >= DESIGN_FIELDS for run in runs)
    code, out, _ = orc(filled, capsys, "ls")
    assert code == 0
    assert all(run["id"] in out for run in runs)


def test_ls_can_be_limited_to_a_project_and_to_the_newest(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(orc_json(filled, capsys, "ls", "--limit", "2")["runs"]) == 2
    (run,) = orc_json(filled, capsys, "ls", "--project", "good")["runs"]
    assert (run["state"], run["epoch"], run["best"]) == ("SUCCEEDED", 3, {"loss": 0.5})


def test_show_has_every_epoch_once_under_progress(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    value = orc_json(filled, capsys, "show", "good")
    assert [row["epoch"] for row in value["progress"]] == [1, 2, 3]
    assert all(set(row) == names(Progress) for row in value["progress"])
    assert all(set(ref) == names(CheckpointRef) for ref in value["checkpoints"])
    assert set(value) >= DESIGN_FIELDS
    code, out, _ = orc(filled, capsys, "show", "good")
    assert code == 0
    assert "EPOCH" in out


def test_every_place_that_names_an_emulated_card_says_so(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("ls",), ("show", "good"), ("queue",), ("explain", "running")):
        _, out, _ = orc(filled, capsys, *words)
        assert "RTX" in out
        assert "emulated" in out


def test_the_queue_has_runs_that_hold_cards_first_then_priority(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = orc_json(filled, capsys, "queue")["queue"]
    assert [entry["position"] for entry in entries] == [1, 2, 3, 4, 5]
    projects = [entry["project"] for entry in entries]
    assert set(projects[:2]) == {"running", "blocker"}
    assert projects[2:] == ["asked", "waiting", "huge"]


@pytest.mark.parametrize(
    ("project", "reason", "code"),
    [
        ("running", None, 0),
        ("good", None, 0),
        ("waiting", "WAITING_FOR_GPU", 0),
        ("huge", "NO_MATCHING_GPU", 5),
    ],
)
def test_explain_gives_the_reason_and_the_list_agrees(
    project: str,
    reason: str | None,
    code: int,
    filled: Filled,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = orc_json(filled, capsys, "explain", project)
    assert set(value) == names(Explanation) | {"schema_version"}
    assert value["reason"] == reason
    (run,) = orc_json(filled, capsys, "ls", "--project", project)["runs"]
    assert run["reason"] == reason
    got, out, _ = orc(filled, capsys, "explain", project)
    assert got == code
    assert filled.ids[project] in out


def test_a_run_is_found_by_enough_of_its_id(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    full = filled.ids["stopped"]
    for text in (full, full[:-2], "stopped", "otter-stop"):
        assert orc_json(filled, capsys, "show", text)["id"] == full
    code, out, err = orc(filled, capsys, "show", "2026")
    assert (code, out) == (2, "")
    assert "E1031" in err
    assert full in err
    assert "Traceback" not in err
    assert orc_json(filled, capsys, "show", "last")["id"] == max(filled.ids.values())


@pytest.mark.parametrize("verb", ["show", "explain", "logs", "stop"])
def test_a_run_that_is_not_there_is_not_found(
    verb: str, filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = orc(filled, capsys, verb, "nobody")
    assert (code, out) == (3, "")
    assert err.startswith("error[E5020]")


def test_an_error_is_an_object_in_json(filled: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    error = orc_json(filled, capsys, "show", "nobody")["error"]
    assert set(error) == {"code", "title", "why", "fix", "exit_code"}
    assert (error["code"], error["exit_code"]) == ("E5020", 3)


def test_stop_is_durable_and_a_run_that_ended_is_left_alone(
    own: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orc(own, capsys, "stop", "asked")[0] == 0
    value = orc_json(own, capsys, "stop", "running", "--now")
    assert (value["asked"], value["driver"]) == (True, None)
    assert orc_json(own, capsys, "stop", "good")["asked"] is False
    with own.client.store() as store:
        kinds = [type(event).__name__ for event in store.waiting()]
    assert kinds == ["RunSubmitted", "CancelRequested", "CancelRequested"]


def test_a_priority_is_changed_through_the_queue(
    own: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orc(own, capsys, "queue", "set", "waiting", "priority=80")[0] == 0
    assert orc(own, capsys, "queue", "set", "waiting", "priority=9999")[0] == 2
    assert orc(own, capsys, "queue", "put", "waiting")[0] == 2
    with own.client.store() as store:
        assert [type(e).__name__ for e in store.waiting()][1:] == ["PriorityChanged"]


def test_reading_an_absent_store_says_so_and_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "none"
    for words in (["ls"], ["queue"], ["ls", "--json"], ["queue", "--json"]):
        assert main([*words, "--home", str(home)]) == 0
    assert main(["show", "x", "--home", str(home)]) == 3
    capsys.readouterr()
    assert not home.exists()


def test_logs_are_printed_to_their_end(
    own: Filled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own.client.run("good")
    assert run.state is RunState.SUCCEEDED
    code, out, err = orc(own, capsys, "logs", "good")
    assert (code, out) == (0, "")
    assert "no log yet" in err


def test_reading_imports_neither_ray_nor_torch(filled: Filled) -> None:
    code = (
        "import sys; from orchestrator.cli.app import main;"
        f"[main([*w.split(), '--home', {str(filled.client.home)!r}])"
        " for w in ('ls', 'show good', 'queue', 'explain waiting')];"
        "heavy = {'torch', 'ultralytics', 'timm', 'ray'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
