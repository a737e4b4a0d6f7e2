"""What the bench on a real card asks, and how it judges; itself it needs CUDA."""

from typing import Any

import pytest

from tests.gpu.bench_memory import BUDGETS, judge, settings

SOME = len(settings()[::3])


def report(error: float = 0.01, *, dies: bool = False, use: float = 0.9) -> dict[str, Any]:
    launch = {"batch": 8, "out_of_memory": dies, "use": use, "is_limited": True}
    return {"summary": {}, "error": [{"error": error}] * 60, "budgets": [launch] * 100}


def test_sixty_settings_of_both_families_and_a_hundred_launches() -> None:
    chosen = settings()
    assert len(chosen) == len(set(chosen)) == 60
    assert {s.workload.trainer for s in chosen} == {"yolo", "timm"}
    assert len({s.workload.model for s in chosen if s.workload.trainer == "timm"}) == 12
    assert SOME * len(BUDGETS) == 100


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (report(error=-0.05), "error"),
        (report(dies=True), "ran out of memory"),
        (report(use=0.7), "use"),
        (report() | {"error": [{"out_of_memory": ""}] * 60}, "settings ran"),
    ],
)
def test_a_missed_goal_is_named(given: dict[str, Any], word: str) -> None:
    assert any(word in line for line in judge(given))


def test_nothing_is_missed_when_all_goals_are_met() -> None:
    given = report()
    assert judge(given) == []
    assert given["summary"]["error_median"] == 0.01
