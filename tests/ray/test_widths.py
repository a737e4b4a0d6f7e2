"""A policy that sizes runs, on a real Ray: a gang gives a card to a short run and gets it back."""

from pathlib import Path

import pytest

from orchestrator.cluster.ray import RayCluster
from orchestrator.driver import drive
from orchestrator.messages import (
    Event,
    GangStarted,
    GangYielded,
    PolicyChanged,
    ProgressReported,
    RunSubmitted,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunSpec, RunState, TrainSettings
from tests.ray.conftest import no_real_cards
from tests.ray.parts import EmulatedCards, FakeParts

pytestmark = pytest.mark.ray

QUICK = ShortestFlow(round_seconds=3.0, restart_seconds=1.0, horizon_seconds=20.0)


def spec(folder: Path, name: str, *, epochs: int, most: int) -> RunSpec:
    run_id = RunId(f"20260101-000000-{name}-0001")
    return RunSpec(
        run_id=run_id,
        project=name,
        trainer="together",
        settings=TrainSettings(model="alike", data="none", imgsz=32, epochs=epochs),
        effective_batch=8,
        folder=str(folder / run_id),
        num_gpus=most,
        min_gpus=1 if most > 1 else None,
    )


def test_a_gang_shrinks_for_a_short_run_and_grows_again(session: Path, tmp_path: Path) -> None:
    long = spec(tmp_path, "long", epochs=300, most=2)
    short = spec(tmp_path, "short", epochs=20, most=1)
    widths: list[int] = []
    with SqlStore(str(tmp_path / "orchestrator.db")) as store, store.drive("test"):
        store.ask(PolicyChanged(at=0.0, name="shortest"))
        store.ask(RunSubmitted(at=0.0, spec=long))

        def see(event: Event) -> None:
            if isinstance(event, GangStarted) and event.attempt.run_id == long.run_id:
                widths.append(len(event.pids))
            is_first = isinstance(event, ProgressReported) and event.progress.epoch == 3
            if is_first and len(widths) == 1:
                store.ask(RunSubmitted(at=event.at, spec=short))

        cluster = RayCluster(FakeParts(), list_cards=no_real_cards, local_cards=EmulatedCards)
        try:
            scheduler = Scheduler(policies={"shortest": QUICK})
            drive(scheduler, cluster, store, cluster, observe=see)
        finally:
            cluster.close()
        assert widths == [2, 1, 2]
        for run in (long, short):
            status = store.status(run.run_id)
            assert status.state is RunState.SUCCEEDED, status.detail
            epochs = [progress.epoch for progress in store.progress(run.run_id)]
            assert epochs == list(range(1, run.settings.epochs + 1))
        ranks = [progress.metrics["ranks"] for progress in store.progress(long.run_id)]
        assert set(ranks) == {1.0, 2.0}
        yields = [event for event in store.replay() if isinstance(event, GangYielded)]
        assert len(yields) == 2, "it left twice, each time after an epoch"
