"""A clone goes on from another run's checkpoint under its own rates and batch."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.types import AttemptId, BatchPlan, CheckpointRef, Outcome, RunId, TrainSettings
from tests.trainer.picture_folders import make_pictures
from tests.trainer.test_timm import MODEL, fit

SMALL = BatchPlan(effective_batch=4, world_size=1, micro_batch=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", each=8)
    make_pictures(folder / "val", each=4, seed=1)
    return folder


def of_another(ref: CheckpointRef) -> CheckpointRef:
    return replace(ref, attempt=AttemptId(run_id=RunId("another"), number=1))


def test_a_clone_of_a_classifier_trains_on_at_its_own_rate_and_batch(
    pictures: Path, tmp_path: Path
) -> None:
    donor = TrainSettings(
        model=MODEL, data=str(pictures), imgsz=32, epochs=5, workers=0, seed=3, lr0=0.01
    )
    _, first = fit(donor, tmp_path / "donor", kill_after=2)
    own = replace(donor, lr0=0.002, options={"weight_decay": 0.1, "momentum": 0.8})
    _, fresh = fit(own, tmp_path / "fresh", batch=SMALL)
    ref = of_another(first.saved[-1])
    outcome, clone = fit(own, tmp_path / "clone", batch=SMALL, resume_from=ref)
    assert outcome is Outcome.FINISHED
    assert [row.epoch for row in clone.reported] == [3, 4, 5]
    rates = [row.metrics["lr/pg0"] for row in clone.reported]
    assert rates == pytest.approx([row.metrics["lr/pg0"] for row in fresh.reported[2:]])
    assert (tmp_path / "clone" / "weights" / "best.safetensors").exists()
    assert clone.saved[0].is_best  # of this run: the donor's best is not its own
