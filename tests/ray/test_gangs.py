"""Gangs of several ranks on a real Ray: whole or absent, one end, nobody left behind."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.pulse import Patience
from orchestrator.messages import (
    GangFinished,
    GangYielded,
    KillGang,
    PreemptGang,
    ProgressReported,
)
from orchestrator.types import Cause, CheckpointRef, StopMode
from tests.ray.drills import Drill

pytestmark = pytest.mark.ray

QUICK = Patience(start_seconds=50.0, floor_seconds=3.0, multiple=3.0, answer_seconds=8.0)


@pytest.fixture
def patience() -> Patience:
    return QUICK


def reports(drill: Drill) -> list[ProgressReported]:
    return [event for event in drill.seen if isinstance(event, ProgressReported)]


def all_gone(pids: Sequence[int], seconds: float) -> bool:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_two_ranks_compute_together_and_rank_0_tells(drill: Drill) -> None:
    order = drill.pair("both", epochs=3)
    drill.cluster.apply(order)
    ended = drill.end(order.attempt)
    assert isinstance(ended, GangFinished), ended
    assert ended.metrics == {"ranks": 2.0}
    assert [report.progress.epoch for report in reports(drill)] == [1, 2, 3]
    started = drill.until_started(order.attempt)
    assert len(set(started.pids)) == 2
    folder = Path(order.spec.folder)
    assert {file.name for file in folder.glob("finished.*")} == {"finished.0", "finished.1"}
    assert {file.name for file in (folder / "logs").iterdir()} == {
        "attempt-1.log",
        "attempt-1.rank-1.log",
    }
    assert all_gone(started.pids, 5.0)


@pytest.mark.parametrize("mode", list(StopMode))
def test_a_gang_that_is_asked_leaves_at_one_step(drill: Drill, mode: StopMode) -> None:
    order = drill.pair("asked")
    drill.cluster.apply(order)
    drill.wait(lambda: bool(reports(drill)))
    drill.cluster.apply(PreemptGang(attempt=order.attempt, mode=mode))
    assert isinstance(drill.end(order.attempt), GangYielded)
    left = [file.read_text() for file in Path(order.spec.folder).glob("left.*")]
    assert len(left) == 2
    assert len(set(left)) == 1


def test_a_rank_that_dies_takes_the_others_along_and_the_gang_goes_on_whole(drill: Drill) -> None:
    order = drill.pair("dies", epochs=4, options={"die_rank": 1})
    drill.cluster.apply(order)
    failed = drill.failed(order.attempt)
    assert failed.cause is Cause.WORKER_LOST
    assert failed.detail.startswith("rank 1, process ")
    pids = drill.until_started(order.attempt).pids
    assert all_gone(pids, 5.0)
    refs: list[CheckpointRef] = [r.checkpoint for r in reports(drill) if r.checkpoint]
    assert [ref.epoch for ref in refs] == [1]
    again = drill.pair("dies", epochs=4, number=2)
    at = drill.cluster.now()
    drill.cluster.apply(drill.resumed(again, refs))
    drill.until_started(again.attempt)
    assert drill.cluster.now() - at < 15.0
    assert isinstance(drill.end(again.attempt), GangFinished)
    assert [report.progress.epoch for report in reports(drill)] == [1, 2, 3, 4]


def test_a_rank_s_mistake_is_the_gang_s_and_names_the_rank(drill: Drill) -> None:
    order = drill.pair("wrong", options={"raise_rank": 1})
    drill.cluster.apply(order)
    failed = drill.failed(order.attempt)
    assert (failed.cause, failed.code) == (Cause.USER_ERROR, "E4111")
    assert failed.detail.startswith("rank 1, process ")
    assert "KeyError" in failed.detail
    assert all_gone(drill.until_started(order.attempt).pids, 5.0)


def test_a_rank_that_hangs_is_named_the_stacks_are_kept_and_all_are_killed(drill: Drill) -> None:
    order = drill.pair("hangs", options={"hang_rank": 1})
    drill.cluster.apply(order)
    failed = drill.failed(order.attempt)
    assert (failed.cause, failed.code) == (Cause.HANG, "E4117")
    assert failed.detail.startswith("rank 1 hangs, the others wait for it: no sign of life for")
    folder = Path(order.spec.folder) / "attempts" / "1"
    assert "distributed_c10d" in (folder / "stacks.txt").read_text()
    assert "in _strike" in (folder / "stacks.rank-1.txt").read_text()
    assert all_gone(drill.until_started(order.attempt).pids, 5.0)


def test_a_rank_that_stands_still_as_a_whole_is_found(drill: Drill) -> None:
    order = drill.pair("stopped")
    drill.cluster.apply(order)
    drill.wait(lambda: len(reports(drill)) > 1)  # so that it is known how long an epoch takes
    pids = drill.until_started(order.attempt).pids
    os.kill(pids[1], signal.SIGSTOP)
    failed = drill.failed(order.attempt)
    assert failed.cause is Cause.HANG
    assert failed.detail.startswith("rank 1 hangs")
    assert "could not even tell its stacks" in failed.detail
    assert all_gone(pids, 15.0)


def test_a_gang_is_killed_whole_while_it_starts_and_while_it_trains(drill: Drill) -> None:
    early, late = drill.pair("early"), drill.pair("late")
    drill.cluster.apply(late)
    drill.until_started(late.attempt)
    drill.cluster.apply(early)
    for order in (early, late):
        drill.cluster.apply(KillGang(attempt=order.attempt))
        assert drill.failed(order.attempt).cause is Cause.KILLED
    assert all_gone(drill.until_started(late.attempt).pids, 5.0)
    assert drill.started(early.attempt) is None
