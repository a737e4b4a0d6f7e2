"""A worker tells the pace of its first steps, and the journal has it before the epoch is over."""

from pathlib import Path

import pytest

from jobs.parts import LocalParts
from orchestrator.cluster.session import local_ray
from orchestrator.messages import PaceMeasured, ProgressReported, RunSubmitted
from orchestrator.types import Card, RunId, RunSpec, RunState, TrainSettings
from tests.ray.conftest import no_real_cards

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CARDS = (Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True),)
RUN = RunId("20260101-000000-long-0001")


def test_long_epochs_are_foretold_by_their_steps(tmp_path: Path) -> None:
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.driver import drive
    from orchestrator.schedule.standard import standard_scheduler
    from orchestrator.store.sql import SqlStore

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
    with (
        SqlStore(str(tmp_path / "orchestrator.db")) as store,
        store.drive("test"),
        local_ray(num_cpus=2, cards=CARDS, home=tmp_path),
    ):
        store.ask(RunSubmitted(at=0.0, spec=asked))
        cluster = RayCluster(LocalParts(), list_cards=no_real_cards, local_cards=CARDS)
        scheduler = standard_scheduler()
        drive(scheduler, cluster, store, cluster)
        events = list(store.replay())
    assert scheduler.status(RUN).state is RunState.SUCCEEDED
    told = [event for event in events if isinstance(event, PaceMeasured | ProgressReported)]
    measured, complete = told
    assert isinstance(measured, PaceMeasured)
    assert isinstance(complete, ProgressReported)
    assert measured.pace.epoch == 1
    assert measured.pace.num_images == complete.progress.num_images == 320
    assert measured.pace.seconds == pytest.approx(complete.progress.seconds, rel=0.1)
    assert measured.at < complete.at
