"""Seeded schedules of everything that can go wrong: no law of the contract breaks."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from jobs import bench_faults
from jobs.fault_drill import play
from jobs.fault_work import Work
from orchestrator.cluster.sim_laws import Observer
from orchestrator.cluster.sim_rooms import LawBrokenError
from orchestrator.messages import GangFinished, ProgressReported, RunSubmitted
from orchestrator.types import AttemptId, Progress, RunId, RunState, RunStatus
from tests.strategies import make_spec

NUM_SEEDS = 150


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, 10))
def test_every_law_holds_whatever_goes_wrong(first: int) -> None:
    for seed in range(first, first + 10):
        assert play(seed).broken == ""


def test_the_schedules_hold_every_kind_of_fault() -> None:
    seen: Counter[str] = Counter()
    for seed in range(NUM_SEEDS):
        work = Work.of(seed)
        seen["partitions"] += len(work.partitions)
        seen["duplicates"] += work.duplicate > 0
        seen["deaths"] += sum(not is_store for _, is_store, _ in work.deaths)
        seen["store faults"] += sum(is_store for _, is_store, _ in work.deaths)
        seen["dates forward"] += sum(date > 0 for _, _, date in work.deaths)
        seen["dates back"] += sum(date < 0 for _, _, date in work.deaths)
        seen["node losses"] += sum(type(e).__name__ == "NodeLost" for e in work.happenings)
        for name in ("hang", "bad_card", "late_event", "lost_kill", "silent_loss", "worker_loss"):
            seen[name] += getattr(work.faults, name) > 0
    assert len(seen) == 13
    assert min(seen.values()) >= 20, seen
    assert sum(play(seed).num_deaths for seed in range(30)) > 10, "drivers really die"


def test_a_seed_gives_the_same_bytes_whatever_the_hash_seed_is() -> None:
    code = "from jobs.fault_drill import play; print([play(s).digest for s in range(8)])"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "12345")
    }
    assert told == {f"{[play(seed).digest for seed in range(8)]}\n"}


def test_the_job_tells_how_many_schedules_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_faults.main(20) == 0
    told = capsys.readouterr().out
    assert "schedules              20" in told
    assert "broken laws            0" in told


# --- the observer sees what it should


@pytest.fixture
def observer() -> Observer:
    made = Observer(start_timeout_seconds=300.0, grace_seconds=60.0, clock=lambda: 0.0)
    made.acknowledged(make_spec("r"), "r")
    return made


def status_of_attempt(number: int) -> RunStatus:
    return RunStatus(
        run_id=RunId("r"),
        project="p",
        trainer="fake",
        state=RunState.RUNNING,
        attempt=number,
        priority=50,
        queue="default",
        epoch=0,
        epochs=3,
        submitted_at=0.0,
    )


def report(number: int, epoch: int) -> ProgressReported:
    return ProgressReported(
        at=0.0,
        attempt=AttemptId(run_id=RunId("r"), number=number),
        progress=Progress(epoch=epoch, epochs=3, metrics={}, seconds=1.0, num_images=1),
    )


def test_a_lost_submission_is_seen(observer: Observer) -> None:
    with pytest.raises(LawBrokenError, match="I1: r"):
        observer.ended({}, {}, {})


def test_a_run_that_is_submitted_twice_is_seen(observer: Observer) -> None:
    observer.recorded(RunSubmitted(at=0.0, spec=make_spec("r")))
    with pytest.raises(LawBrokenError, match="I2"):
        observer.recorded(RunSubmitted(at=0.0, spec=make_spec("r")))


@pytest.mark.parametrize(
    ("number", "epoch", "law"), [(1, 1, "I6"), (2, 1, "I4"), (2, 3, "I14"), (3, 2, "I6")]
)
def test_what_an_attempt_may_not_write_is_seen(
    observer: Observer, number: int, epoch: int, law: str
) -> None:
    run = make_spec("r")
    observer.recorded(RunSubmitted(at=0.0, spec=run))
    observer.published([status_of_attempt(1)])
    observer.published([status_of_attempt(2)])
    observer.recorded(report(2, 1))
    with pytest.raises(LawBrokenError, match=law):
        observer.recorded(report(number, epoch))


def test_a_result_of_an_older_attempt_is_seen(observer: Observer) -> None:
    observer.recorded(RunSubmitted(at=0.0, spec=make_spec("r")))
    observer.published([status_of_attempt(1)])
    observer.published([status_of_attempt(2)])
    stale = GangFinished(at=0.0, attempt=AttemptId(run_id=RunId("r"), number=1))
    with pytest.raises(LawBrokenError, match="I6"):
        observer.recorded(stale)
