"""YoloTrainer keeps the laws of every trainer; what is wrong is refused before anything trains."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import ConfigError, DataError, OrchestratorError, StoreError, TrainingError
from orchestrator.ports import Device, Trainer
from orchestrator.trainer.randomness import save_state
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_state import check, read
from orchestrator.trainer.yolo_weights import write_weights
from orchestrator.types import (
    BatchPlan,
    Cause,
    CheckpointRef,
    Outcome,
    Scalar,
    TrainSettings,
    TrainTask,
)
from tests.contracts.trainer import FIRST, RecordingLink, TrainerContract, attempt_of
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

WHOLE = BatchPlan(effective_batch=4, world_size=1, micro_batch=4)
CUT = BatchPlan(effective_batch=4, world_size=1, micro_batch=3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # ultralytics sets its own number for a CPU


def settings_of(data: Path, model: str = "yolo11n.yaml", **fields: object) -> TrainSettings:
    options: dict[str, Scalar] = {"close_mosaic": 1}
    given = {"imgsz": 64, "epochs": 3, "workers": 0, "optimizer": "SGD", "options": options}
    return TrainSettings(model=model, data=str(data), **(given | fields))  # type: ignore[arg-type]  # any field, by name


def fit(
    settings: TrainSettings, folder: Path, batch: BatchPlan = WHOLE, **link: object
) -> tuple[RecordingLink, Outcome]:
    recording = RecordingLink(folder / "checkpoints", **link)  # type: ignore[arg-type]  # any field, by name
    task = attempt_of(settings, folder, batch=batch)
    outcome, _ = YoloTrainer().fit(task, CpuDevice(), recording)
    return recording, outcome


def refused(settings: TrainSettings, folder: Path) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        fit(settings, folder)
    assert caught.value.fix
    assert not (folder / "checkpoints").exists()
    return caught.value


def test_a_cut_epoch_leaves_weights_results_and_a_checkpoint_that_loads_safely(
    tmp_path: Path,
) -> None:
    data = make_yolo_data(tmp_path / "set", train=5, val=2)
    before = sorted(data.parent.rglob("*"))
    link, outcome = fit(settings_of(data, epochs=1), tmp_path / "run", CUT)
    assert outcome is Outcome.FINISHED
    (progress,) = link.reported
    assert progress.num_images == 5
    assert progress.micro_batch == 3
    assert {"train/box_loss", "metrics/mAP50(B)", "val/cls_loss", "lr/pg0"} <= set(progress.metrics)
    with Path(link.saved[0].path).open("rb") as file:
        assert read(file)["epoch"] == 1
    for name in ("weights/best.pt", "weights/last.pt", "results.csv", "args.yaml"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    weights = tmp_path / "run" / "weights"  # of one epoch, the best is the last
    assert (weights / "last.pt").read_bytes() == (weights / "best.pt").read_bytes()
    assert sorted(data.parent.rglob("*")) == before, "something was written beside the pictures"


def test_weights_that_are_written_again_are_those_of_now(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    trainer = SimpleNamespace(ema=SimpleNamespace(ema=model), args=SimpleNamespace(lr0=0.1))
    file = tmp_path / "weights" / "best.pt"
    for value in (1, 2):
        for number in (*model.parameters(), *model.buffers()):
            number.data.fill_(value)
        write_weights(trainer, file, {"fitness": float(value)})
        content = torch.load(file, weights_only=False)  # written a moment ago
        assert content["train_metrics"] == {"fitness": float(value)}
        for name, number in content["model"].state_dict().items():
            assert bool((number == value).all()), name
            assert number.dtype in {torch.float16, torch.int64}
    assert model[0].weight.dtype is torch.float32


def test_weights_that_are_missing_say_that_nothing_is_downloaded(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    error = refused(settings_of(data, model="yolov8n.pt"), tmp_path / "run")
    assert isinstance(error, DataError)
    assert error.code == "E3220"
    assert "download" in " ".join(error.why)
    assert "yolov8n.yaml" in " ".join(error.fix)


class Canary:
    """Writes a file when it is unpickled: what a hostile weights file would do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_file_that_is_not_weights_is_refused_and_never_runs_code(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    text, pickled, plain = (tmp_path / f"{name}.pt" for name in ("text", "pickled", "plain"))
    text.write_text("weights")
    torch.save({"model": Canary(tmp_path / "mark")}, pickled)
    torch.save({"model": {"a": torch.zeros(2)}}, plain)
    for file in (text, pickled, plain):
        error = refused(settings_of(data, model=str(file)), tmp_path / file.stem)
        assert isinstance(error, DataError)
        assert error.code == "E3221"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("yolo11n", "E1115"),
        ("yolo77n.yaml", "E1115"),
        ("https://example.org/yolo.yaml", "E1115"),
        ("rtdetr-l.yaml", "E1116"),
        ("yolo26n-depth.yaml", "E1116"),
    ],
)
def test_a_model_that_is_not_trained_here_is_refused(tmp_path: Path, model: str, code: str) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    error = refused(settings_of(data, model=model), tmp_path / "run")
    assert isinstance(error, ConfigError)
    assert error.code == code


def test_wrong_data_is_refused_before_training(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    (data.parent / "labels/train/1.txt").write_text("0 2 2 2 2\n")
    error = refused(settings_of(data), tmp_path / "run")
    assert (error.code, "1.txt:1" in error.what) == ("E3212", True)
    data.write_text(data.read_text() + "download: echo\n")
    assert refused(settings_of(data), tmp_path / "run").code == "E3203"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"damaged")
    ref = CheckpointRef(attempt=FIRST, epoch=1, path=str(path), sha256="", num_bytes=7)
    with pytest.raises(StoreError):
        fit(settings_of(data), tmp_path / "run", resume_from=ref)
    torch.save({"epoch": 3}, path)
    with path.open("rb") as file, pytest.raises(ValueError, match="not a state"):
        check(file)
    with path.open("wb") as file:
        save_state({"epoch": 3}, file)
    with path.open("rb") as file, pytest.raises(ValueError, match="not a YOLO checkpoint"):
        check(file)


class SmallDevice(CpuDevice):
    """A CPU on which the first allocation of training fails as on a card that is full."""

    def reset_peak(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_full_card_ends_with_numbers_and_no_smaller_batch(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    task = attempt_of(settings_of(data), tmp_path / "run", batch=CUT)
    with pytest.raises(TrainingError) as caught:
        YoloTrainer().fit(task, SmallDevice(), RecordingLink(tmp_path / "checkpoints"))
    assert caught.value.cause is Cause.OUT_OF_MEMORY
    assert "pieces of at most 3" in " ".join(caught.value.why)


@pytest.mark.slow
class TestYoloTrainer(TrainerContract):
    batch = BatchPlan(effective_batch=8, world_size=1, micro_batch=8)

    @pytest.fixture
    def trainer(self) -> Trainer:
        return YoloTrainer()

    @pytest.fixture
    def device(self) -> Device:
        return CpuDevice()

    @pytest.fixture
    def settings(self, tmp_path: Path) -> TrainSettings:
        return settings_of(make_yolo_data(tmp_path / "set", train=20), seed=3)


@pytest.mark.slow
class TestCutYoloTrainer(TestYoloTrainer):
    batch = BatchPlan(effective_batch=8, world_size=1, micro_batch=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("segment", "yolo11n-seg.yaml"),
        ("pose", "yolo11n-pose.yaml"),
        ("obb", "yolo11n-obb.yaml"),
        ("detect", "yolo26n.yaml"),
    ],
)
def test_every_task_trains_with_cut_steps(tmp_path: Path, task: str, model: str) -> None:
    data = make_yolo_data(tmp_path / "set", train=6, task=task)
    link, outcome = fit(settings_of(data, model=model, epochs=2), tmp_path / "run", CUT)
    assert outcome is Outcome.FINISHED
    assert [p.epoch for p in link.reported] == [1, 2]


@pytest.mark.slow
def test_classification_trains_with_cut_steps_and_resumes(tmp_path: Path) -> None:
    make_pictures(tmp_path / "set/train", classes=2, each=5)
    make_pictures(tmp_path / "set/val", classes=2, each=3, seed=1)
    settings = settings_of(tmp_path / "set", model="yolo11n-cls.yaml")
    whole, _ = fit(settings, tmp_path / "whole", CUT)
    resumed, outcome = fit(settings, tmp_path / "whole", CUT, resume_from=whole.saved[0])
    assert outcome is Outcome.FINISHED
    assert [dict(p.metrics) for p in resumed.reported] == [
        pytest.approx(dict(p.metrics), abs=1e-4) for p in whole.reported[1:]
    ]
    assert "metrics/accuracy_top1" in whole.reported[0].metrics


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set")
    options: dict[str, Scalar] = {"cls": 1e38}
    with pytest.raises(TrainingError) as caught:
        fit(settings_of(data, options=options), tmp_path / "run")
    assert caught.value.cause is Cause.NAN_LOSS


@pytest.mark.slow
def test_finished_weights_are_a_start_for_another_run(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set")
    fit(settings_of(data, epochs=1), tmp_path / "first")
    weights = tmp_path / "first/weights/best.pt"
    _, outcome = fit(settings_of(data, model=str(weights), epochs=1), tmp_path / "second")
    assert outcome is Outcome.FINISHED


def test_a_task_without_its_trainer_is_refused(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=2, val=2)
    task: TrainTask = attempt_of(
        settings_of(data, model="yolo11n-pose.yaml"), tmp_path / "run", batch=WHOLE
    )
    with pytest.raises(DataError, match="kpt_shape"):
        YoloTrainer().fit(task, CpuDevice(), RecordingLink(tmp_path / "checkpoints"))
