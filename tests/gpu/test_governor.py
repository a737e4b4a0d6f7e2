"""Out of memory on a real card: the fraction of the process shrinks while it trains."""

from pathlib import Path

import pytest
import torch

from orchestrator.device import nvml
from orchestrator.device.cuda import CudaDevice
from orchestrator.ports import Trainer
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import BatchPlan, Outcome, StopMode, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine"),
]

BUDGET = 4 << 30
WHOLE = BatchPlan(effective_batch=16, world_size=1, micro_batch=16)


class Shrinking(RecordingLink):
    """After `after` questions, what the process may reserve is cut between step and peak."""

    def __init__(self, folder: Path, *, after: int) -> None:
        super().__init__(folder)
        self._after = after
        self.room = 0

    def stop_requested(self) -> StopMode | None:
        self.num_asked += 1
        if self.num_asked == self._after:
            live, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
            self.room = live + (peak - live) // 2
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(self.room / total)
        return None


def work(name: str, folder: Path) -> tuple[Trainer, TrainSettings]:
    if name == "timm":
        data = make_pictures(folder, each=32, size=128)
        settings = TrainSettings(
            model="timm/resnet18", data=str(data), imgsz=128, epochs=3, amp="fp16", workers=0
        )
        return TimmTrainer(), settings
    pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
    file = make_yolo_data(folder, train=40, val=8, size=256)
    settings = TrainSettings(
        model="yolo11n.yaml", data=str(file), imgsz=256, epochs=3, amp="fp16", workers=0
    )
    return YoloTrainer(), settings


@pytest.mark.parametrize("after", [2, 6], ids=["in the first epoch", "in a later epoch"])
@pytest.mark.parametrize("name", ["timm", "yolo"])
def test_a_run_whose_memory_shrinks_ends_in_the_same_attempt(
    name: str, after: int, tmp_path: Path
) -> None:
    trainer, settings = work(name, tmp_path / "data")
    device = CudaDevice(nvml.cards()[0], BUDGET)
    link = Shrinking(tmp_path / "checkpoints", after=after)
    task = attempt_of(settings, tmp_path, batch=WHOLE)
    with device.session():
        outcome, _ = trainer.fit(task, device, link)
    assert outcome is Outcome.FINISHED
    assert [progress.epoch for progress in link.reported] == [1, 2, 3]
    assert link.recuts, "the room that was left was enough"
    assert link.recuts[0].old == 16
    assert link.reported[-1].micro_batch < 16
    assert link.reported[-1].peak_reserved_bytes <= link.room
    assert any(Path(task.folder).glob("out-of-memory.*"))


def test_what_a_failed_step_held_is_free_when_the_smaller_one_begins(tmp_path: Path) -> None:
    trainer, settings = work("timm", tmp_path / "data")
    device = CudaDevice(nvml.cards()[0], BUDGET)
    link = Shrinking(tmp_path / "checkpoints", after=2)
    with device.session():
        trainer.fit(attempt_of(settings, tmp_path, batch=WHOLE), device, link)
    assert len(link.recuts) <= 3
    assert all(recut.new >= 2 for recut in link.recuts), "memory was not given back"
