"""What the bench on a real card asks, how it judges and shares the card; itself it needs CUDA."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.memory.trace import steps_of
from orchestrator.plan.workload import Workload
from tests.gpu.bench_memory import WHOLE, judge, keep_traces, rows_of, run_all
from tests.gpu.memory_grid import BUDGETS, Setting, settings
from tests.gpu.memory_work import Work, as_card_of, really_run, room_on_card, run_part

SOME = settings()[::3]
TINY = Workload(trainer="timm", model="test_efficientnet", imgsz=64, num_classes=10)


def report(error: float = 0.01, *, dies: bool = False, use: float = 0.9) -> dict[str, Any]:
    launch = {"batch": 8, "out_of_memory": dies, "use": use, "is_limited": True}
    probed = {"batch": 8, "out_of_memory": True, "use": 0.5, "seconds": 4.0}
    return {
        "summary": {},
        "error": [{"error": error}] * WHOLE["error"],
        "budgets": [launch] * WHOLE["budgets"],
        "autobatch": [probed] * (WHOLE["autobatch"] - 1) + [{"batch": 0}],
        "recovery": [{"lost_steps": 1.5}] * WHOLE["recovery"],
    }


def test_sixty_settings_of_both_families_and_a_hundred_launches() -> None:
    chosen = settings()
    assert len(chosen) == len(set(chosen)) == WHOLE["error"] == 60
    models = {s.workload.model for s in chosen}
    assert {f"yolo{v}{s}.yaml" for v in ("v8", "11", "12", "26") for s in "nsmlx"} <= models
    assert len({s.workload.model for s in chosen if s.workload.trainer == "timm"}) == 12
    assert len(SOME) * len(BUDGETS) == WHOLE["budgets"] == 100
    detectors = [s for s in SOME if s.workload.trainer == "yolo" and s.workload.task != "classify"]
    assert len(detectors) * len(BUDGETS) == WHOLE["autobatch"]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (report(error=-0.05), "error"),
        (report(dies=True), "ran out of memory"),
        (report(use=0.7), "use"),
        (report() | {"error": [{"out_of_memory": ""}] * 60}, "settings ran"),
        (report() | {"recovery": [{"lost_steps": 4.0}] * 3}, "4.0 steps"),
        (report() | {"budgets": report()["budgets"][:7]}, "budgets: 7 of 100"),
    ],
)
def test_a_missed_goal_is_named(given: dict[str, Any], word: str) -> None:
    (line,) = judge(given)
    assert word in line


def test_nothing_is_missed_when_all_goals_are_met() -> None:
    given = report()
    assert judge(given) == []
    assert given["summary"]["error_median"] == 0.01
    assert given["summary"]["autobatch"]["no_batch"] == 1
    assert given["summary"]["autobatch"]["out_of_memory"] == WHOLE["autobatch"] - 1


def test_what_was_measured_until_the_time_was_up_is_kept(tmp_path: Path) -> None:
    begun = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(3):
            begun.append(number)
            yield {"number": number}

    assert run_part(rows(), tmp_path / "error-0.jsonl", time.time() + 60) == 3
    assert run_part(rows(), tmp_path / "error-1.jsonl", time.time()) == 0
    assert begun == [0, 1, 2]
    with (tmp_path / "error-1.jsonl").open("a") as file:
        file.write(json.dumps({"number": 3}) + '\n{"num')  # its process was ended
    assert [row["number"] for row in rows_of(tmp_path, "error")] == [0, 1, 2, 3]


def _take(folder: Path, gib: int, taken: Any, go: Any) -> None:
    with room_on_card(folder, gib):
        taken.release()
        go.acquire()


def test_processes_wait_for_room_on_the_card_and_the_dead_leave_theirs(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"room-{number}").touch()
    spawn = multiprocessing.get_context("spawn")
    taken, go = spawn.Semaphore(0), spawn.Semaphore(0)
    first, second = (spawn.Process(target=_take, args=(tmp_path, 3, taken, go)) for _ in range(2))
    first.start()
    assert taken.acquire(timeout=60)
    second.start()
    assert not taken.acquire(timeout=0.5)
    first.kill()
    assert taken.acquire(timeout=60)
    go.release()
    second.join(60)
    assert second.exitcode == 0
    with room_on_card(tmp_path, 99):  # more than there is: all of it
        pass


def _parameters(built: Any) -> list[torch.Tensor]:
    return list(getattr(built, "model", built).parameters())


def test_a_setting_runs_as_the_bench_runs_it() -> None:
    model = "yolo11n-cls.yaml"
    for workload in (
        TINY,
        Workload(trainer="yolo", model=model, imgsz=32, num_classes=4, is_channels_last=True),
    ):
        built = steps_of(workload).build(is_fake=False)
        before = [p.detach().clone() for p in _parameters(built)]
        really_run(Setting(workload=workload, batch=2), built, "cpu")
        assert any(not torch.equal(a, b) for a, b in zip(before, _parameters(built), strict=True))


def test_torch_tells_of_a_smaller_card_and_afterwards_of_the_real_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = type("Properties", (), {"total_memory": 80, "name": "card"})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: real)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 3)
    with as_card_of(24, 1):
        told = torch.cuda.get_device_properties(0)
        assert (told.total_memory, told.name) == (24, "card")
        assert torch.cuda.mem_get_info() == (20, 24)
    assert torch.cuda.get_device_properties(0) is real


def test_a_process_that_ends_wrong_says_why(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card, so nothing goes wrong")
    found = run_all(tmp_path, time.time() + 60, {"error": 1})
    assert list(found) == ["error-0"]
    assert "CUDA" in found["error-0"] or "NVIDIA" in found["error-0"]


def test_traces_are_kept_where_the_processes_look(tmp_path: Path) -> None:
    keep_traces([TINY], tmp_path / "traces", 1)
    found = Work(tmp_path, 0.0).trace(TINY)
    assert found.allocated_peak(4) > 0
    with pytest.raises(LookupError):
        Work(tmp_path, 0.0).trace(Workload(trainer="timm", model="x", imgsz=1, num_classes=1))
