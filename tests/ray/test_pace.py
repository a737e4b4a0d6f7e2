"""A worker tells the pace of its first steps, and the journal has it before the epoch is over."""

from pathlib import Path

import pytest

from orchestrator.messages import PaceMeasured, ProgressReported
from orchestrator.schedule.standard import standard_scheduler
from orchestrator.types import RunId, RunSpec, RunState, TrainSettings
from tests.ray.whole_run import driven

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUN = RunId("20260101-000000-long-0001")


def test_long_epochs_are_foretold_by_their_steps(tmp_path: Path) -> None:
    settings = TrainSettings(
        model="fake",
        data="none",
        imgsz=32,
        epochs=1,
        options={"epoch_seconds": 40.0, "steps_per_epoch": 40, "images_per_epoch": 320},
    )
    asked = RunSpec(
        run_id=RUN,
        project="long",
        trainer="fake",
        settings=settings,
        effective_batch=8,
        folder=str(tmp_path / "run"),
    )
    scheduler = standard_scheduler()
    events = driven(asked, scheduler, tmp_path)
    assert scheduler.status(RUN).state is RunState.SUCCEEDED
    told = [event for event in events if isinstance(event, PaceMeasured | ProgressReported)]
    measured, complete = told
    assert isinstance(measured, PaceMeasured)
    assert isinstance(complete, ProgressReported)
    assert measured.pace.epoch == 1
    assert measured.pace.num_images == complete.progress.num_images == 320
    assert measured.pace.seconds == pytest.approx(complete.progress.seconds, rel=0.1)
    assert measured.at < complete.at
