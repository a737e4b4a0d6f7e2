"""The whole: scheduler, SQL store, Ray and checkpoints on disk train projects to their end."""

from collections import Counter
from pathlib import Path

import pytest

from jobs.stub_driver import CARDS, StubParts
from orchestrator.cluster.session import local_ray
from orchestrator.messages import GangStarted, RunSubmitted
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.types import Cause, RunId, RunSpec, RunState, TrainSettings
from tests.ray.conftest import no_real_cards

pytestmark = pytest.mark.ray

GIB = 1024**3


def spec(home: Path, name: str, memory_bytes: int | None, **options: float) -> RunSpec:
    run_id = RunId(f"20260101-000000-{name}-0001")
    return RunSpec(
        run_id=run_id,
        project=name,
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=32,
            epochs=4,
            options={"epoch_seconds": 0.1, **options},
        ),
        effective_batch=8,
        folder=str(home / "runs" / name / run_id),
        memory_bytes=memory_bytes,
    )


def test_three_projects_train_to_their_end_and_a_crash_costs_no_recorded_epoch(
    tmp_path: Path,
) -> None:
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.driver import drive
    from orchestrator.schedule.scheduler import Scheduler
    from orchestrator.store.sql import SqlStore

    specs = [
        spec(tmp_path, "whole", None),
        spec(tmp_path, "share", 2 * GIB),
        spec(tmp_path, "crash", 3 * GIB, crash_at_epoch=3),
    ]
    with (
        SqlStore(str(tmp_path / "orchestrator.db")) as store,
        store.drive("test"),
        local_ray(num_cpus=2, cards=CARDS, home=tmp_path),
    ):
        for asked in specs:
            store.ask(RunSubmitted(at=0.0, spec=asked))
        cluster = RayCluster(StubParts(), list_cards=no_real_cards, local_cards=CARDS)
        drive(Scheduler(), cluster, store, cluster)
        attempts = Counter(
            event.attempt.run_id for event in store.replay() if isinstance(event, GangStarted)
        )
        for asked in specs:
            status = store.status(asked.run_id)
            assert status.state is RunState.SUCCEEDED, status.detail
            epochs = [progress.epoch for progress in store.progress(asked.run_id)]
            assert epochs == [1, 2, 3, 4]
            newest = store.checkpoints(asked.run_id)[0]
            assert newest.epoch == 4
            assert FileCheckpoints(asked.folder).verify(newest)
            log = Path(asked.folder) / "logs" / "attempt-1.log"
            assert log.exists()
        assert [attempts[asked.run_id] for asked in specs] == [1, 1, 2]
        assert Cause.WORKER_LOST in {getattr(event, "cause", None) for event in store.replay()}
