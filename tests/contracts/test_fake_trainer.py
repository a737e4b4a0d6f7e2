"""The fake trainer keeps the laws of every trainer."""

import pytest

from orchestrator.device.fake import FakeDevice
from orchestrator.ports import Device, Trainer
from orchestrator.trainer.fake import FakeTrainer
from orchestrator.types import TrainSettings
from tests.contracts.trainer import TrainerContract


class TestFakeTrainer(TrainerContract):
    @pytest.fixture
    def trainer(self) -> Trainer:
        return FakeTrainer()

    @pytest.fixture
    def device(self) -> Device:
        return FakeDevice(1 << 30)

    @pytest.fixture
    def settings(self) -> TrainSettings:
        return TrainSettings(model="fake", data="none", imgsz=32, epochs=3)
