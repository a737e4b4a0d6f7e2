"""The run's folder: safe names, whole files, and a driver that never stops because of them."""

import json
import math
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from orchestrator.errors import StoreError
from orchestrator.messages import GangStarted, RunSubmitted, StepReported
from orchestrator.states import RunState
from orchestrator.store.codec import decode
from orchestrator.store.folder import (
    FolderObserver,
    create_run_folder,
    write_config,
    write_environment,
)
from orchestrator.types import RunStatus, StepProgress
from tests.contracts.store import RUN, attempt, epoch, spec, status


def row(folder: Path, state: RunState = RunState.RUNNING) -> RunStatus:
    return replace(status(attempt=1, state=state), folder=str(folder))


def test_a_run_gets_a_private_folder_and_latest_points_to_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = create_run_folder(runs, "cells", "run-1")
    assert first == runs / "cells" / "run-1"
    assert (first / "logs").is_dir()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (runs, first.parent, first)} == {0o700}
    second = create_run_folder(runs, "cells", "run-2")
    assert (runs / "cells" / "latest").resolve() == second
    assert create_run_folder(runs, "cells", "run-1") == first
    assert (runs / "cells" / "latest").readlink() == Path("run-1")


def test_folders_of_one_project_are_made_at_once(tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(200)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        made = list(pool.map(lambda name: create_run_folder(tmp_path, "cells", name), names))
    assert [path.name for path in made] == names
    assert (tmp_path / "cells" / "latest").resolve() in made
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {*names, "latest"}


def test_something_else_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cells" / "latest").mkdir(parents=True)
    create_run_folder(tmp_path, "cells", "run-1")
    assert (tmp_path / "cells" / "latest").is_dir()
    with pytest.raises(StoreError):
        create_run_folder(tmp_path, "cells", "latest")


@given(st.text(max_size=70) | st.sampled_from(["..", ".", "", "a/../..", "%2e%2e", "a\x00b", "A"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_name_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    runs = tmp_path_factory.getbasetemp() / "names"
    for names in ((name, "run"), ("project", name)):
        try:
            made = create_run_folder(runs, *names)
        except StoreError as error:
            assert error.code == "E5011"  # noqa: PT017  # both outcomes are right, for their names
        else:
            assert made.parent.parent == runs
            assert made.resolve() == made


def test_a_project_behind_a_link_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cells").symlink_to(trap)
    with pytest.raises(StoreError):
        create_run_folder(tmp_path / "runs", "cells", "run-1")
    assert list(trap.iterdir()) == []


def test_config_and_environment_are_replaced_whole(tmp_path: Path) -> None:
    write_config(tmp_path, "model: yolo11n.yaml\n")
    write_config(tmp_path, "model: é\n")
    assert (tmp_path / "config.yaml").read_bytes() == "model: é\n".encode()
    write_environment(tmp_path, {"torch": "2.15", "cards": ["RTX 2060"], "home": Path("/x")})
    assert json.loads((tmp_path / "env.json").read_text())["home"] == "/x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "env.json"]


def test_what_happens_is_written_for_people(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    submitted = RunSubmitted(at=1.0, spec=replace(spec(), folder=str(folder)))
    observe = FolderObserver()
    observe(submitted)
    observe(GangStarted(at=2.0, attempt=attempt(1), pids=(41,)), [row(folder)])
    step = StepProgress(epoch=1, epochs=3, step=4, num_steps=9, images_per_second=80.0)
    observe(StepReported(at=3.0, attempt=attempt(1), step=step))
    bad = epoch(1, attempt(1), loss=math.nan)
    observe(bad, [row(folder, RunState.FAILED)])
    observe(epoch(2, attempt(1), loss=0.5))

    run = json.loads((folder / "run.json").read_text())
    assert (run["run_id"], run["state"], run["attempt"]) == (RUN, "FAILED", 1)
    events = [decode(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert repr(events) == repr(
        [
            submitted,
            GangStarted(at=2.0, attempt=attempt(1), pids=(41,)),
            bad,
            epoch(2, attempt(1), loss=0.5),
        ]
    )
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(m["epoch"], m["name"], m["value"]) for m in metrics] == [
        (1, "loss", None),
        (2, "loss", 0.5),
    ]
    assert set(metrics[0]) == {"ts", "step", "epoch", "name", "value", "rank"}


def test_a_folder_that_cannot_be_written_is_logged_once_and_stops_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    observe = FolderObserver()
    with capture_logs() as logs:
        for number in range(1, 4):
            observe(epoch(number, attempt(1)), [row(blocked / "run")])
    assert [entry["log_level"] for entry in logs] == ["warning"] * 3  # once a file
    names = {Path(entry["file"]).name for entry in logs if entry["run_id"] == RUN}
    assert names == {"run.json", "events.jsonl", "metrics.jsonl"}
    blocked.unlink()
    observe(epoch(4, attempt(1)), [row(blocked / "run")])
    assert (blocked / "run" / "run.json").exists()


def test_a_status_is_written_once_until_it_changes(tmp_path: Path) -> None:
    observe = FolderObserver()
    observe.add_status(row(tmp_path))
    (tmp_path / "run.json").unlink()
    observe.add_status(row(tmp_path))
    assert not (tmp_path / "run.json").exists()
    observe.add_status(row(tmp_path, RunState.STOPPING))
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "STOPPING"


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    observe = FolderObserver()
    observe.add_status(row(tmp_path))
    (tmp_path / "events.jsonl").write_text('{"type":"Prog')
    observe.add_event(epoch(1, attempt(1)))
    torn, whole = (tmp_path / "events.jsonl").read_text().splitlines()
    assert torn == '{"type":"Prog'
    assert decode(whole) == epoch(1, attempt(1))


def test_a_link_in_the_folder_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("events.jsonl", "run.json", ".run.json.tmp"):
        (folder / name).symlink_to(target)
    observe = FolderObserver()
    with capture_logs():
        observe.add_status(row(folder))
        observe.add_event(epoch(1, attempt(1)))
    assert target.read_text() == "precious"
    assert (folder / "events.jsonl").is_symlink()
