"""Detectors on a card that fills up: the same run, cut smaller, and no batch is ever halved."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.recovery_runs import Done, Fill, Work, run
from jobs.recovery_work import detection_set
from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_validation import governed
from orchestrator.types import BatchPlan, Card, Outcome, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

BATCH = 8
MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # ultralytics sets its own number for a CPU


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    data, model = detection_set(tmp_path_factory.mktemp("set"), train=20, val=10)
    settings = TrainSettings(
        model=str(model),
        data=str(data),
        imgsz=64,
        epochs=2,
        amp="fp32",
        optimizer="SGD",
        workers=0,
        options={"close_mosaic": 0},
    )
    plan = BatchPlan(effective_batch=BATCH, world_size=1, micro_batch=BATCH)
    return Work(trainer="yolo", settings=settings, batch=plan, num_steps=3)


@pytest.fixture(scope="module")
def whole(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(tmp_path_factory.mktemp("whole"), work)


def room_of(work: Work, whole: Done, step: tuple[int, int], folder: Path) -> int:
    """Half-way between what one image needs and what the step needs."""
    least = run(folder, replace(work, batch=replace(work.batch, micro_batch=1)))
    return (max(least.load.values()) + whole.load[step]) // 2


@pytest.mark.parametrize(
    "step", [(1, 1), (2, 3)], ids=["the first step of all", "the last ragged batch"]
)
def test_a_step_that_ran_out_costs_no_sample_and_no_update(
    work: Work, whole: Done, step: tuple[int, int], tmp_path: Path
) -> None:
    room = room_of(work, whole, step, tmp_path / "least")
    done = run(tmp_path / "run", work, Fill(epoch=step[0], step=step[1], room=room, lasts=1))
    assert not done.error
    assert not done.wrong
    assert done.samples == whole.samples
    assert done.sizes == whole.sizes == [8, 8, 4, 8, 8, 4]
    assert done.num_updates == 6
    assert done.recuts[0].epoch == step[0]
    assert done.recuts[0].old == BATCH
    assert done.reported[-1].micro_batch == done.recuts[-1].new < BATCH
    assert done.reported[-1].metrics["lr/pg0"] == whole.reported[-1].metrics["lr/pg0"]
    assert (tmp_path / "run" / "attempt0" / "out-of-memory.json").exists()


def test_validation_that_ran_out_has_the_numbers_of_the_whole(
    work: Work, whole: Done, tmp_path: Path
) -> None:
    room = room_of(work, whole, (1, 0), tmp_path / "least")
    done = run(tmp_path / "run", work, Fill(epoch=1, step=0, room=room, lasts=1))
    assert not done.error
    assert [r.in_validation for r in done.recuts] == [True] * len(done.recuts)
    assert done.recuts
    for mine, theirs in zip(done.reported, whole.reported, strict=True):
        assert dict(mine.metrics) == pytest.approx(dict(theirs.metrics), rel=1e-4, abs=2e-5)


class Appending:
    """What of a validator counts, with predictions that are appended to a file an image."""

    def __init__(self) -> None:
        self.seen = 0
        self.metrics = self.confusion_matrix = None

    def save_one_txt(self, predn: str, save_conf: bool, shape: None, file: Path) -> None:
        with file.open("a") as text:
            text.write(predn)


def test_a_batch_that_is_judged_again_writes_its_predictions_once(tmp_path: Path) -> None:
    plan = BatchPlan(effective_batch=BATCH, world_size=1, micro_batch=BATCH)
    link = RecordingLink(tmp_path / "checkpoints")
    task = attempt_of(TrainSettings(model="m", data="d", imgsz=64, epochs=1), tmp_path, batch=plan)
    governor = Governor(task, CpuDevice(), link, MemoryOptions())
    validator = governed(Appending(), governor, Ranks(task.batch), lambda: None)
    files = [tmp_path / f"{name}.txt" for name in "abc"]
    for batch in (files[:1], files[1:]):
        mark = validator._mark()
        for written in (batch[:1], batch):  # memory ran out after the first of them
            validator._roll_back(mark)
            for file in written:
                validator.save_one_txt("0 0.5\n", save_conf=False, shape=None, file=file)
    assert [file.read_text() for file in files] == ["0 0.5\n"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("detect", "yolo26n.yaml"),
        ("segment", "yolo11n-seg.yaml"),
        ("pose", "yolo11n-pose.yaml"),
        ("obb", "yolo11n-obb.yaml"),
    ],
)
def test_every_task_is_validated_alike_in_pieces(tmp_path: Path, task: str, model: str) -> None:
    data = make_yolo_data(tmp_path / "set", train=8, val=7, task=task)
    settings = TrainSettings(
        model=model, data=str(data), imgsz=64, epochs=1, amp="fp32", workers=0, optimizer="SGD"
    )
    plan = BatchPlan(effective_batch=4, world_size=1, micro_batch=4)
    found: list[Any] = []
    room = 0
    for name in ("whole", "cut"):
        card = Card(index=0, name="RTX 2060", memory_bytes=4096 * MIB, is_emulated=True)
        device = EmulatedDevice(card, card.memory_bytes)
        link = Full(tmp_path / name / "checkpoints", device=device, room=room)
        task_ = attempt_of(settings, tmp_path / name, batch=plan)
        with device.session():
            outcome, _ = YoloTrainer().fit(task_, device, link)
        assert outcome is Outcome.FINISHED
        found.append(dict(link.reported[0].metrics))
        assert bool(link.recuts) == (name == "cut")
        room = link.needs
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-4)


class Full(RecordingLink):
    """Measures validation; leaves it `room` bytes beside what lives before, if it is given."""

    def __init__(self, folder: Path, *, device: EmulatedDevice, room: int) -> None:
        super().__init__(folder)
        self._device, self._room = device, room
        self.needs = 0

    def stop_requested(self) -> None:
        self.num_asked += 1
        if self.num_asked == 2:  # after the last step
            self._live = self._device.live_bytes()
            self._device.reset_peak()
            if self._room:
                self._device.set_foreign(4096 * MIB - self._live - self._room)
        elif self.num_asked > 3:  # the third is before the one batch of validation
            self.needs = (self._device.peak_bytes() - self._live) * 3 // 5
            self._device.set_foreign(0)
