"""A worker that runs out of memory on an emulated card: told, recorded, and trained to its end."""

from pathlib import Path

import pytest

from orchestrator.messages import GangStarted, MicroBatchChanged, ProgressReported
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import RunId, RunSpec, RunState, TrainSettings
from tests.ray.whole_run import driven
from tests.trainer.picture_folders import make_pictures

pytestmark = pytest.mark.ray

MIB = 1 << 20
RUN = RunId("20260101-000000-tight-0001")


def test_the_same_attempt_goes_on_and_the_journal_knows_the_cut(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", each=16)
    settings = TrainSettings(
        model="timm/test_resnet", data=str(data), imgsz=96, epochs=2, amp="fp32", workers=0
    )
    asked = RunSpec(
        run_id=RUN,
        project="tight",
        trainer="timm",
        settings=settings,
        effective_batch=8,
        folder=str(tmp_path / "run"),
        memory_bytes=18 * MIB,
    )
    scheduler = Scheduler()
    events = driven(asked, scheduler, tmp_path)
    status = scheduler.status(RUN)
    changes = [event.recut for event in events if isinstance(event, MicroBatchChanged)]
    epochs = [event.progress for event in events if isinstance(event, ProgressReported)]
    assert status.state is RunState.SUCCEEDED
    assert sum(isinstance(event, GangStarted) for event in events) == 1
    assert changes[0].old == 8
    assert "MiB" in changes[0].why
    assert status.batch is not None
    assert status.batch.micro_batch == changes[-1].new < 8
    assert [row.num_recuts for row in epochs] == [len(changes), 0]
    assert (tmp_path / "run" / "attempts" / "1" / "out-of-memory.json").exists()
