"""What dies on a real Ray is told once, soon, and with its cause."""

import os
import signal

import psutil
import pytest

from orchestrator.messages import (
    GangFinished,
    GangYielded,
    KillGang,
    PreemptGang,
    ProgressReported,
)
from orchestrator.types import AttemptId, Cause, Placement, Share, StopMode
from tests.ray.drills import Drill

pytestmark = pytest.mark.ray


def test_a_worker_that_is_killed_is_told_within_three_seconds(drill: Drill) -> None:
    attempt = drill.start("killed")
    pid = drill.until_started(attempt).pids[0]
    os.kill(pid, signal.SIGKILL)
    at = drill.cluster.now()
    failed = drill.failed(attempt)
    assert failed.at - at < 3.0
    assert failed.cause is Cause.WORKER_LOST
    assert str(pid) in failed.detail
    assert "attempt-1.log" in failed.detail


@pytest.mark.parametrize(
    ("fault", "cause", "code"),
    [
        ("nan", Cause.NAN_LOSS, "E2110"),
        ("data", Cause.DATA_ERROR, "E3001"),
        ("store", Cause.DISK_FULL, "E5004"),
        ("disk", Cause.DISK_FULL, "E4115"),
        ("host", Cause.HOST_OUT_OF_MEMORY, "E4112"),
        ("device", Cause.DEVICE_FAULT, "E4116"),
        ("mistake", Cause.USER_ERROR, "E4111"),
    ],
)
def test_what_a_training_raises_ends_it_with_its_cause(
    drill: Drill, fault: str, cause: Cause, code: str
) -> None:
    attempt = drill.start(fault, trainer="raising", model=fault)
    failed = drill.failed(attempt)
    assert (failed.cause, failed.code) == (cause, code)
    assert failed.detail


def test_a_mistake_is_told_with_its_line_and_the_log_holds_the_traceback(drill: Drill) -> None:
    failed = drill.failed(drill.start("traced", trainer="raising", model="mistake"))
    assert "KeyError" in failed.detail
    assert "parts.py:" in failed.detail
    log = (drill.folder / "traced" / "logs" / "attempt-1.log").read_text()
    assert "Traceback (most recent call last)" in log


def test_all_that_a_worker_prints_is_in_the_log_of_its_attempt(drill: Drill) -> None:
    drill.end(drill.start("prints", trainer="telling"))
    log = (drill.folder / "prints" / "logs" / "attempt-1.log").read_text()
    for who in ("Python", "a library", "a child"):
        assert f"printed by {who}" in log


def test_the_environment_is_set_before_torch_is_there(drill: Drill) -> None:
    ended = drill.end(drill.start("env", trainer="telling", num_cpus=2.0))
    assert isinstance(ended, GangFinished)
    assert ended.metrics == {"had_torch": 0.0, "omp": 2.0, "sees_cards": 0.0}


def test_a_peak_that_the_trainer_left_out_is_the_device_s(drill: Drill) -> None:
    drill.end(drill.start("peak", trainer="telling"))
    peaks = [e.progress.peak_bytes for e in drill.seen if isinstance(e, ProgressReported)]
    assert peaks == [drill.node.cards[0].memory_bytes // 2]


def test_shares_of_one_card_run_together_and_a_full_card_lets_nobody_in(drill: Drill) -> None:
    thirds = [drill.start(f"third{i}", parts_of_card=1 / 3) for i in range(3)]
    for attempt in thirds:
        drill.until_started(attempt)
    waiting = drill.start("fourth", parts_of_card=1 / 3)
    other = drill.start("other-card", card=1)
    drill.until_started(other)
    assert drill.started(waiting) is None
    drill.cluster.apply(KillGang(attempt=thirds[0]))
    assert drill.failed(thirds[0]).cause is Cause.KILLED
    drill.until_started(waiting)


def test_a_gang_that_waits_for_a_card_can_be_killed_and_preempted(drill: Drill) -> None:
    holder = drill.start("holder")
    drill.until_started(holder)
    killed, asked = drill.start("waits-killed"), drill.start("waits-asked")
    drill.cluster.apply(KillGang(attempt=killed))
    drill.cluster.apply(PreemptGang(attempt=asked, mode=StopMode.AFTER_EPOCH))
    assert drill.failed(killed).cause is Cause.KILLED
    assert isinstance(drill.end(asked), GangYielded)
    assert not drill.ends(holder)


def test_a_worker_that_does_not_listen_can_be_killed(drill: Drill) -> None:
    attempt = drill.start("stuck", trainer="stuck")
    pid = drill.until_started(attempt).pids[0]
    drill.cluster.apply(PreemptGang(attempt=attempt, mode=StopMode.AT_BATCH))
    drill.cluster.apply(KillGang(attempt=attempt))
    assert drill.failed(attempt).cause is Cause.KILLED
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=3.0)
    assert not psutil.pid_exists(pid)


def test_a_run_without_a_card_takes_cpus_and_sees_no_card(drill: Drill) -> None:
    ended = drill.end(drill.start("cpu", trainer="telling", card=None, num_cpus=1.0))
    assert isinstance(ended, GangFinished)
    assert ended.metrics == {"had_torch": 0.0, "omp": 1.0, "sees_cards": 0.0}


@pytest.mark.parametrize("where", ["another-host", ""])
def test_what_cannot_be_placed_fails_to_start(drill: Drill, where: str) -> None:
    attempt = drill.start("nowhere", epochs=1)
    drill.end(attempt)
    order = drill.order("nowhere", epochs=1, number=2)
    share = order.placement.shares[0]
    other = Share(
        node_id=type(share.node_id)(where or share.node_id),
        card=99,
        memory_bytes=share.memory_bytes,
    )
    drill.cluster.apply(drill.moved(order, Placement((other,))))
    failed = drill.failed(order.attempt)
    assert failed.cause is (Cause.NODE_LOST if where else Cause.START_FAILED)


def test_when_the_inbox_dies_every_gang_is_lost_and_the_next_ones_report(drill: Drill) -> None:
    first = drill.start("first")
    drill.wait(lambda: any(isinstance(e, ProgressReported) for e in drill.seen))
    inbox = next(
        process
        for process in psutil.Process().children(recursive=True)  # not those of another Ray
        if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Inbox")
    )
    inbox.kill()
    assert drill.failed(first).cause is Cause.WORKER_LOST
    second = drill.start("second", epochs=2)
    assert isinstance(drill.end(second), GangFinished)
    mine = [e for e in drill.seen if isinstance(e, ProgressReported) and e.attempt == second]
    assert [event.progress.epoch for event in mine] == [1, 2]


def test_attempts_that_end_together_each_end_once(drill: Drill) -> None:
    attempts: list[AttemptId] = [
        drill.start(f"many{i}", parts_of_card=1 / 4, card=i % 2, epochs=3) for i in range(6)
    ]
    for attempt in attempts:
        assert isinstance(drill.end(attempt), GangFinished)
        mine = [e for e in drill.seen if isinstance(e, ProgressReported) and e.attempt == attempt]
        assert [event.progress.epoch for event in mine] == [1, 2, 3]
