"""What hangs on a real Ray is found, its stacks are kept, it is killed and tried again."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.pulse import Patience
from orchestrator.cluster.ray import RayCluster
from orchestrator.messages import GangFailed, ProgressReported, RunSubmitted
from orchestrator.types import Cause, RetryBudget, RunId, RunSpec, RunState, TrainSettings
from tests.ray.conftest import no_real_cards
from tests.ray.drills import Drill
from tests.ray.parts import EmulatedCards, FakeParts

pytestmark = pytest.mark.ray

QUICK = Patience(start_seconds=6.0, floor_seconds=2.0, multiple=3.0, answer_seconds=8.0)


@pytest.fixture
def patience() -> Patience:
    return QUICK


def stacks(drill: Drill, name: str) -> str:
    return (drill.folder / name / "attempts" / "1" / "stacks.txt").read_text()


def test_a_trainer_that_never_says_anything_is_found(drill: Drill) -> None:
    attempt = drill.start("mute", trainer="stuck")
    pid = drill.until_started(attempt).pids[0]
    failed = drill.failed(attempt)
    assert (failed.cause, failed.code) == (Cause.HANG, "E4117")
    assert "no sign of life for" in failed.detail
    assert "stacks.txt" in failed.detail
    assert "in fit" in stacks(drill, "mute")
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10.0)
    assert not psutil.pid_exists(pid)


def test_a_process_that_stands_still_as_a_whole_is_killed_though_it_tells_nothing(
    drill: Drill,
) -> None:
    attempt = drill.start("stopped")
    pid = drill.until_started(attempt).pids[0]
    drill.wait(lambda: any(isinstance(event, ProgressReported) for event in drill.seen))
    os.kill(pid, signal.SIGSTOP)
    failed = drill.failed(attempt)
    assert failed.cause is Cause.HANG
    assert "could not even tell its stacks" in failed.detail
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10.0)
    assert not psutil.pid_exists(pid)


def test_a_driver_that_was_away_does_not_take_its_own_silence_for_a_hang(drill: Drill) -> None:
    attempt = drill.start("busy")
    drill.until_started(attempt)
    pause = drill.cluster.now() + 2 * QUICK.start_seconds
    while drill.cluster.now() < pause:
        pass  # as if it had been stopped: nothing is read, while the worker goes on
    number = len(drill.seen)
    drill.wait(lambda: len(drill.seen) > number + 20)
    assert not drill.ends(attempt)


def test_a_run_that_hung_is_tried_again_on_a_budget_of_its_own_and_ends(
    session: Path, tmp_path: Path
) -> None:
    from orchestrator.driver import drive
    from orchestrator.schedule.scheduler import Scheduler
    from orchestrator.store.sql import SqlStore

    run_id = RunId("20260101-000000-hangs-0001")
    spec = RunSpec(
        run_id=run_id,
        project="hangs",
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=32,
            epochs=4,
            options={"epoch_seconds": 0.1, "hang_at_epoch": 3},
        ),
        effective_batch=8,
        folder=str(tmp_path / "runs" / run_id),
        retry=RetryBudget(user_errors=0, losses_without_progress=0, hangs=1),
    )
    with (
        SqlStore(str(tmp_path / "orchestrator.db")) as store,
        store.drive("test"),
    ):
        store.ask(RunSubmitted(at=0.0, spec=spec))
        cluster = RayCluster(
            FakeParts(), list_cards=no_real_cards, local_cards=EmulatedCards, patience=QUICK
        )
        try:
            drive(Scheduler(), cluster, store, cluster)
        finally:
            cluster.close()
        status = store.status(run_id)
        assert (status.state, status.attempt) == (RunState.SUCCEEDED, 2), status.detail
        assert [progress.epoch for progress in store.progress(run_id)] == [1, 2, 3, 4]
        causes = [event.cause for event in store.replay() if isinstance(event, GangFailed)]
        assert causes == [Cause.HANG]
    text = (Path(spec.folder) / "attempts" / "1" / "stacks.txt").read_text()
    assert "in _hang" in text
    assert not (Path(spec.folder) / "attempts" / "2" / "stacks.txt").exists()
