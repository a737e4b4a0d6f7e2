"""Training a timm classifier: laws of the port, and what only this trainer does."""

from pathlib import Path

import pytest
from tests.contracts.trainer import TrainerContract
from tests.trainer.picture_folders import make_pictures

from orchestrator.device.cpu import CpuDevice
from orchestrator.ports import Device, Trainer
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, TrainSettings

MODEL = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", each=8)
    make_pictures(folder / "val", each=4, seed=1)
    return folder


class TestTimmTrainer(TrainerContract):
    batch = BatchPlan(effective_batch=8, world_size=1, micro_batch=3)

    @pytest.fixture
    def trainer(self) -> Trainer:
        return TimmTrainer()

    @pytest.fixture
    def device(self) -> Device:
        return CpuDevice()

    @pytest.fixture
    def settings(self, pictures: Path) -> TrainSettings:
        return TrainSettings(model=MODEL, data=str(pictures), imgsz=32, epochs=3, workers=0, seed=3)
