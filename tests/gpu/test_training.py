"""Both trainers on a real card, in half precision, held to a budget; skipped without CUDA."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.device import nvml
from orchestrator.device.cuda import CudaDevice
from orchestrator.errors import TrainingError
from orchestrator.ports import Trainer
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import BatchPlan, Cause, Outcome, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine"),
]

BUDGET = 2 << 30
WHOLE = BatchPlan(effective_batch=8, world_size=1, micro_batch=8)
CUT = BatchPlan(effective_batch=8, world_size=1, micro_batch=3)


@pytest.fixture(params=["timm", "yolo"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Trainer, TrainSettings]:
    if request.param == "timm":
        data = make_pictures(tmp_path / "data", each=20)
        settings = TrainSettings(
            model="timm/resnet18", data=str(data), imgsz=64, epochs=2, amp="fp16", workers=0
        )
        return TimmTrainer(), settings
    pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
    file = make_yolo_data(tmp_path / "data")
    settings = TrainSettings(
        model="yolo11n.yaml", data=str(file), imgsz=64, epochs=2, amp="fp16", workers=0
    )
    return YoloTrainer(), settings


@pytest.fixture(autouse=True)
def _empty_card() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def device_of(budget: int) -> CudaDevice:
    return CudaDevice(nvml.cards()[0], budget)


@pytest.mark.parametrize("batch", [WHOLE, CUT], ids=["whole", "cut"])
def test_a_run_trains_in_half_precision_within_its_budget(
    work: tuple[Trainer, TrainSettings], batch: BatchPlan, tmp_path: Path
) -> None:
    trainer, settings = work
    device, link = device_of(BUDGET), RecordingLink(tmp_path / "checkpoints")
    with device.session():
        outcome, _ = trainer.fit(attempt_of(settings, tmp_path, batch=batch), device, link)
    assert outcome is Outcome.FINISHED
    assert [progress.epoch for progress in link.reported] == [1, 2]
    assert all(0 < progress.peak_bytes <= BUDGET for progress in link.reported)


def test_a_budget_that_is_too_small_is_out_of_memory(
    work: tuple[Trainer, TrainSettings], tmp_path: Path
) -> None:
    trainer, settings = work
    device, link = device_of(32 << 20), RecordingLink(tmp_path / "checkpoints")
    with device.session(), pytest.raises(TrainingError) as caught:
        trainer.fit(attempt_of(settings, tmp_path, batch=WHOLE), device, link)
    assert caught.value.cause is Cause.OUT_OF_MEMORY
