"""A run that starts from another's weights starts from exactly those, or says why it cannot."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import DataError, TrainingError
from orchestrator.ports import Trainer
from orchestrator.trainer.handover import best_yolo
from orchestrator.trainer.results import read_weights
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, CheckpointRef, Scalar, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

BATCH = BatchPlan(effective_batch=4, world_size=1, micro_batch=4)
STILL = 1e-12  # a learning rate at which weights stay what they are


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # ultralytics sets its own number for a CPU


def fit(
    trainer: Trainer,
    settings: TrainSettings,
    folder: Path,
    *,
    weights: CheckpointRef | None = None,
    resume_from: CheckpointRef | None = None,
) -> CheckpointRef:
    """One attempt; returns its best checkpoint, or its last where an earlier one was better."""
    link = RecordingLink(folder / "checkpoints", resume_from=resume_from)
    task = replace(attempt_of(settings, folder, batch=BATCH), weights=weights)
    with CpuDevice().session():
        trainer.fit(task, CpuDevice(), link)
    return ([ref for ref in link.saved if ref.is_best] or link.saved)[-1]


def trained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What only the optimizer changes: statistics of norms move with every picture."""
    return {k: v for k, v in state.items() if "running_" not in k and "num_batches" not in k}


def is_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.allclose(one[k], other[k], rtol=1e-6, atol=1e-7) for k in trained(one))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", classes=2, each=4)
    make_pictures(folder / "val", classes=2, each=2, seed=1)
    return folder


@pytest.fixture
def small(pictures: Path) -> TrainSettings:
    return TrainSettings(
        model="timm/test_resnet.r160_in1k",
        data=str(pictures),
        imgsz=32,
        epochs=2,
        workers=0,
        seed=3,
    )


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_classifier_starts_from_the_best_epoch_at_another_size(
    small: TrainSettings, ema: float, tmp_path: Path
) -> None:
    small = replace(small, options={"ema_decay": ema})
    one = fit(TimmTrainer(), small, tmp_path / "one")
    grown = replace(small, imgsz=64, epochs=1, lr0=STILL, seed=4)
    two = fit(TimmTrainer(), grown, tmp_path / "two", weights=one)
    alone = fit(TimmTrainer(), grown, tmp_path / "alone")
    handed = read_weights(Path(one.path))
    assert is_close(read_weights(Path(two.path)), handed)
    assert not is_close(read_weights(Path(alone.path)), handed)


def test_a_resumed_stage_goes_on_with_its_own_weights(small: TrainSettings, tmp_path: Path) -> None:
    one = fit(TimmTrainer(), replace(small, epochs=1), tmp_path / "one")
    still = replace(small, lr0=STILL, seed=4)
    first = fit(TimmTrainer(), replace(still, epochs=1), tmp_path / "two")
    resumed = fit(TimmTrainer(), still, tmp_path / "two", weights=one, resume_from=first)
    assert is_close(read_weights(Path(resumed.path)), read_weights(Path(first.path)))


def test_weights_of_other_classes_or_another_network_are_refused(
    small: TrainSettings, tmp_path: Path
) -> None:
    one = fit(TimmTrainer(), replace(small, epochs=1), tmp_path / "one")
    others = make_pictures(tmp_path / "others", classes=3, each=4)
    with pytest.raises(TrainingError, match="for other classes") as refused:
        fit(TimmTrainer(), replace(small, data=str(others)), tmp_path / "two", weights=one)
    assert "class2" in refused.value.why[1]
    another = replace(small, model="timm/test_efficientnet.r160_in1k")
    with pytest.raises(TrainingError, match="do not fit this network") as refused:
        fit(TimmTrainer(), another, tmp_path / "three", weights=one)
    assert "tensors do not fit" in refused.value.why[0]


def test_a_checkpoint_that_cannot_be_read_is_named(small: TrainSettings, tmp_path: Path) -> None:
    one = fit(TimmTrainer(), replace(small, epochs=1), tmp_path / "one")
    Path(one.path).write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="cannot be read") as refused:
        fit(TimmTrainer(), small, tmp_path / "two", weights=one)
    assert refused.value.code == "E3112"


def test_a_detector_starts_from_the_averaged_weights_of_the_best_epoch(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
    from orchestrator.trainer.yolo import YoloTrainer

    data = make_yolo_data(tmp_path / "set", train=4, val=2)
    options: dict[str, Scalar] = {"warmup_epochs": 0.0}
    small = TrainSettings(
        model="yolo11n.yaml",
        data=str(data),
        imgsz=32,
        epochs=1,
        workers=0,
        optimizer="SGD",
        options=options,
    )
    one = fit(YoloTrainer(), small, tmp_path / "one")
    grown = replace(small, imgsz=64, lr0=STILL, seed=4)
    two = fit(YoloTrainer(), grown, tmp_path / "two", weights=one)
    alone = fit(YoloTrainer(), grown, tmp_path / "alone")
    handed = best_yolo(one)
    assert is_close(best_yolo(two), handed)
    assert not is_close(best_yolo(alone), handed)
    with pytest.raises(DataError, match="do not fit this network"):
        fit(YoloTrainer(), replace(small, model="yolov8n.yaml"), tmp_path / "x", weights=one)
