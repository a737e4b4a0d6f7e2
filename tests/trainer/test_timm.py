"""Training a timm classifier: laws of the port, and what only this trainer does."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.data import create_transform
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import ConfigError, TrainingError
from orchestrator.ports import Device, Trainer
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.options_timm import TIMM_OPTIONS, TimmOptions, timm_options
from orchestrator.trainer.pictures import find_pictures, read_picture
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import (
    BatchPlan,
    Card,
    Cause,
    CheckpointRef,
    Outcome,
    Scalar,
    StopMode,
    TrainSettings,
)
from tests.contracts.trainer import Killed, RecordingLink, TrainerContract, attempt_of, values
from tests.trainer.picture_folders import make_pictures

MODEL = "timm/test_resnet.r160_in1k"
WITHOUT_BATCHNORM = "timm/test_vit.r160_in1k"
WHOLE = BatchPlan(effective_batch=8, world_size=1, micro_batch=8)
RAGGED = BatchPlan(effective_batch=8, world_size=1, micro_batch=3)
EVERYTHING: dict[str, Scalar] = {
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "auto_augment": "randaugment",
    "erasing": 0.5,
    "dropout": 0.2,
    "drop_path": 0.1,
    "grad_clip": 1.0,
    "ema_decay": 0.9,
    "warmup_epochs": 1.0,
}
TOP1 = "metrics/accuracy_top1"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", each=8)
    make_pictures(folder / "val", each=4, seed=1)
    return folder


@pytest.fixture
def settings(pictures: Path) -> TrainSettings:
    return TrainSettings(model=MODEL, data=str(pictures), imgsz=32, epochs=3, workers=0, seed=3)


class TestTimmTrainer(TrainerContract):
    batch = RAGGED

    @pytest.fixture
    def trainer(self) -> Trainer:
        return TimmTrainer()

    @pytest.fixture
    def device(self) -> Device:
        return CpuDevice()

    @pytest.fixture
    def settings(self, pictures: Path) -> TrainSettings:
        return TrainSettings(model=MODEL, data=str(pictures), imgsz=32, epochs=3, workers=0, seed=3)


def fit(
    settings: TrainSettings,
    folder: Path,
    *,
    batch: BatchPlan = WHOLE,
    device: Device | None = None,
    **link: Any,
) -> tuple[Outcome, RecordingLink]:
    """One attempt in `folder`; an attempt that is killed counts as yielded."""
    told = RecordingLink(folder / "checkpoints", **link)
    device = device or CpuDevice()
    outcome = Outcome.YIELDED
    with suppress(Killed), device.session():
        outcome, _ = TimmTrainer().fit(attempt_of(settings, folder, batch=batch), device, told)
    return outcome, told


def close_to(link: RecordingLink) -> list[Any]:
    return [pytest.approx(metrics, rel=1e-4, abs=1e-4) for metrics in values(link.reported)]


def test_five_epochs_killed_after_two_end_like_five_undisturbed_ones(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, epochs=5, workers=2, options=EVERYTHING)
    _, whole = fit(settings, tmp_path / "whole", batch=RAGGED)
    _, first = fit(settings, tmp_path / "cut", batch=RAGGED, kill_after=2)
    torch.rand(17)  # chance that was drawn in between does not matter
    outcome, second = fit(settings, tmp_path / "cut", batch=RAGGED, resume_from=first.saved[-1])
    assert outcome is Outcome.FINISHED
    assert values(first.reported + second.reported) == close_to(whole)
    assert len(values(first.reported)) == 2
    weights = [load_file(tmp_path / w / "weights" / "best.safetensors") for w in ("whole", "cut")]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-4, atol=1e-5), name


def test_an_epoch_that_is_abandoned_is_repeated_from_its_beginning(
    settings: TrainSettings, tmp_path: Path
) -> None:
    def in_epoch_two(link: RecordingLink) -> StopMode | None:
        return StopMode.ABANDON if link.epoch == 1 and link.steps[-1].epoch == 2 else None

    _, whole = fit(settings, tmp_path / "whole")
    outcome, first = fit(settings, tmp_path / "cut", stop_when=in_epoch_two)
    assert outcome is Outcome.YIELDED
    assert not first.kept
    _, second = fit(settings, tmp_path / "cut", resume_from=first.saved[-1])
    assert second.steps[0].step == 1
    assert values(first.reported + second.reported) == close_to(whole)


def test_neither_loading_processes_nor_a_cache_change_what_is_learnt(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, epochs=2, options=EVERYTHING)
    _, plain = fit(settings, tmp_path / "plain")
    _, loaded = fit(replace(settings, workers=2, cache="ram"), tmp_path / "loaded")
    assert values(loaded.reported) == close_to(plain)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_without_batchnorm_the_cut_of_a_step_changes_nothing(
    settings: TrainSettings, tmp_path: Path, micro_batch: int
) -> None:
    settings = replace(settings, model=WITHOUT_BATCHNORM, epochs=2)
    cut = replace(WHOLE, micro_batch=micro_batch)
    _, whole = fit(settings, tmp_path / "whole")
    _, pieces = fit(settings, tmp_path / "pieces", batch=cut)
    assert values(pieces.reported) == close_to(whole)
    assert {p.micro_batch for p in pieces.reported} == {micro_batch}
    assert {p.num_images for p in pieces.reported} == {24}


class Plain(nn.Module):
    """Learns nothing in one step at learning rate 0, and counts what it is shown."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_validation_counts_every_sample_once(
    settings: TrainSettings, classes: int, size: int
) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(10, 3, 8, 8), torch.randint(0, classes, (10,))
    learner = Learner(
        Plain(classes),
        settings,
        TimmOptions(),
        device=torch.device("cpu"),
        micro_batch=4,
        steps_per_epoch=2,
    )
    found = learner.evaluate(zip(torch.split(images, size), torch.split(labels, size), strict=True))
    with torch.no_grad():
        logits = learner.model(images)
    ranks = logits.argsort(dim=1, descending=True)
    assert found["val/loss"] == pytest.approx(functional.cross_entropy(logits, labels).item())
    assert found[TOP1] == pytest.approx((ranks[:, 0] == labels).float().mean().item())
    top5 = (ranks[:, :5] == labels[:, None]).any(dim=1).float().mean().item()
    assert found["metrics/accuracy_top5"] == pytest.approx(top5)


def test_what_is_left_at_the_end_can_be_used_without_us(
    settings: TrainSettings, pictures: Path, tmp_path: Path
) -> None:
    _, link = fit(replace(settings, options={"ema_decay": 0.5}), tmp_path)
    best = max(link.reported, key=lambda p: p.metrics[TOP1])
    file = torch.load(tmp_path / "weights" / "best.pt", weights_only=True)
    model = timm.create_model(MODEL.removeprefix("timm/"), num_classes=len(file["classes"]))
    model.load_state_dict(file["state_dict"])
    look = {key: file[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    transform = create_transform((3, file["imgsz"], file["imgsz"]), **look)
    _, val = find_pictures(pictures, seed=0)
    images = torch.stack([transform(read_picture(path)) for path in val.paths])
    with torch.no_grad():
        guesses = model.eval()(images).argmax(dim=1)
    accuracy = (guesses == torch.tensor(val.labels)).float().mean().item()
    assert accuracy == pytest.approx(best.metrics[TOP1])
    assert file["epoch"] == best.epoch
    twin = load_file(tmp_path / "weights" / "best.safetensors")
    assert all(torch.equal(twin[name], value) for name, value in file["state_dict"].items())
    with (tmp_path / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["val/loss"]) == pytest.approx(
        link.reported[-1].metrics["val/loss"], rel=1e-5
    )
    arguments = yaml.safe_load((tmp_path / "args.yaml").read_text())
    assert arguments["batch"] == 8
    assert arguments["ema_decay"] == 0.5
    assert not list(tmp_path.rglob(".*"))


def test_a_run_that_gets_no_better_stops_early_and_stays_stopped(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, epochs=9, patience=2, lr0=0.0, options={"ema_decay": 0.0})
    settings = replace(settings, model=WITHOUT_BATCHNORM)  # nothing changes at learning rate 0
    outcome, link = fit(settings, tmp_path)
    assert outcome is Outcome.FINISHED
    assert [p.epoch for p in link.reported] == [1, 2, 3]
    outcome, again = fit(settings, tmp_path, resume_from=link.saved[-1])
    assert outcome is Outcome.FINISHED
    assert not again.reported


def test_the_best_epoch_of_an_earlier_attempt_is_found_at_the_end(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, model=WITHOUT_BATCHNORM, lr0=0.0, options={"ema_decay": 0.0})
    _, first = fit(settings, tmp_path, kill_after=2)
    assert [ref.is_best for ref in first.saved] == [True, False]
    second = replace(first.attempt, number=2)
    outcome, link = fit(settings, tmp_path, attempt=second, resume_from=first.saved[-1])
    assert outcome is Outcome.FINISHED
    assert not link.saved[-1].is_best
    best = torch.load(tmp_path / "weights" / "best.pt", weights_only=True)
    assert best["epoch"] == 1


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_learns(settings: TrainSettings, tmp_path: Path, amp: str) -> None:
    outcome, link = fit(replace(settings, amp=amp, epochs=1), tmp_path, batch=RAGGED)
    assert outcome is Outcome.FINISHED
    assert len(link.reported) == 1


def test_the_learning_rate_warms_up_and_falls_to_its_last_fraction(
    settings: TrainSettings, tmp_path: Path
) -> None:
    options: dict[str, Scalar] = {"lrf": 0.1, "warmup_epochs": 2.0, "cos_lr": False}
    settings = replace(settings, epochs=6, lr0=0.01, options=options)
    _, link = fit(settings, tmp_path)
    rates = [p.metrics["lr/pg0"] for p in link.reported]
    assert rates[0] < rates[1]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("change", "cause", "words"),
    [
        ({"lr0": 1e30, "options": {"warmup_epochs": 0.0}}, Cause.NAN_LOSS, "the loss is nan"),
        ({"data": "/nowhere"}, Cause.DATA_ERROR, "/nowhere is not a folder"),
        ({"options": {"weights": "/nowhere.pt"}}, Cause.DATA_ERROR, "/nowhere.pt cannot be read"),
    ],
)
def test_what_goes_wrong_has_a_cause_and_a_remedy(
    settings: TrainSettings, tmp_path: Path, change: dict[str, Any], cause: Cause, words: str
) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        fit(replace(settings, **change), tmp_path)
    assert caught.value.cause is cause
    assert caught.value.fix
    assert caught.value.code.startswith("E")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "timm/resnet5O"}, "resnet50"),
        ({"optimizer": "AdmW"}, "adamw"),
        ({"amp": "fp8"}, "bf16"),
        ({"cache": "disk"}, "ram"),
        ({"options": {"mixup": 0.1}, "batch": replace(WHOLE, effective_batch=9)}, "even"),
        ({"options": {"pretrained": True}}, "weights"),
        ({"options": {"auto_augment": "magic"}}, "randaugment"),
        ({"options": {"warmup_epoch": 3}}, "warmup_epochs"),
        ({"batch": BatchPlan(effective_batch=8, world_size=2, micro_batch=4)}, "start the ranks"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_would(
    settings: TrainSettings, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    batch = change.pop("batch", WHOLE) if "batch" in (change := dict(change)) else WHOLE
    with pytest.raises(ConfigError) as caught:
        fit(replace(settings, **change), tmp_path, batch=batch)
    assert words in " ".join(caught.value.fix)


def test_a_batch_larger_than_the_data_set_is_refused(
    settings: TrainSettings, tmp_path: Path
) -> None:
    batch = BatchPlan(effective_batch=25, world_size=1, micro_batch=5)
    with pytest.raises(TrainingError, match="25 is more than the 24 training pictures"):
        fit(settings, tmp_path, batch=batch)


@pytest.mark.parametrize(("keep", "num_steps"), [(10, 0), (-600, None)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_ends_the_run_by_name(
    settings: TrainSettings, tmp_path: Path, keep: int, num_steps: int | None, workers: int
) -> None:
    folder = make_pictures(tmp_path / "data", classes=2, each=8)
    bad = folder / "class1" / "3.png"
    bad.write_bytes(bad.read_bytes()[:keep])  # without a header it is found before the first step
    link = RecordingLink(tmp_path / "checkpoints")
    task = attempt_of(replace(settings, data=str(folder), workers=workers), tmp_path, batch=WHOLE)
    with pytest.raises(TrainingError, match=r"class1/3\.png cannot be read") as caught:
        TimmTrainer().fit(task, CpuDevice(), link)
    assert caught.value.cause is Cause.DATA_ERROR
    assert not link.reported
    assert num_steps is None or len(link.steps) == num_steps


def test_memory_that_runs_out_cuts_the_step_and_the_run_goes_on(
    settings: TrainSettings, tmp_path: Path
) -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True)
    settings = replace(settings, imgsz=96, epochs=2)
    outcome, link = fit(settings, tmp_path, device=EmulatedDevice(card, 18 << 20))
    assert outcome is Outcome.FINISHED
    assert link.recuts[0].old == 8
    assert {p.micro_batch for p in link.reported} == {link.recuts[-1].new}
    assert [p.num_recuts for p in link.reported] == [len(link.recuts), 0]
    assert all(0 < p.peak_bytes <= 18 << 20 for p in link.reported)
    assert (tmp_path / "attempts" / "1" / "out-of-memory.json").exists()


def test_a_card_too_small_for_one_sample_is_told_with_the_cut_and_the_budget(
    settings: TrainSettings, tmp_path: Path
) -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True)
    with pytest.raises(TrainingError, match="micro-batch 1") as caught:
        fit(replace(settings, imgsz=96), tmp_path, device=EmulatedDevice(card, 4 << 20))
    assert caught.value.cause is Cause.OUT_OF_MEMORY
    assert "batch 8 in 8 pieces of at most 1" in caught.value.why[1]
    assert caught.value.__cause__ is None, "the frames of the step would be kept"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_training_starts_from_the_weights_of_a_local_file(
    settings: TrainSettings, tmp_path: Path, suffix: str
) -> None:
    still: dict[str, Any] = {"lr0": 0.0, "model": WITHOUT_BATCHNORM, "epochs": 1}
    settings = replace(settings, **still)
    _, first = fit(replace(settings, seed=1), tmp_path / "first")
    weights = str((tmp_path / "first" / "weights" / "best").with_suffix(suffix))
    options: dict[str, Scalar] = {"weights": weights, "pretrained": True}
    _, second = fit(replace(settings, seed=2, options=options), tmp_path / "second")
    for key in ("val/loss", TOP1):
        assert values(second.reported)[0][key] == pytest.approx(values(first.reported)[0][key])
    other = make_pictures(tmp_path / "other", classes=5, each=5)
    fit(replace(settings, data=str(other), options=options), tmp_path / "third")
    with pytest.raises(TrainingError, match="another model"):
        fit(replace(settings, model=MODEL, options=options), tmp_path / "fourth")


def test_classes_that_changed_since_the_checkpoint_are_refused(
    settings: TrainSettings, tmp_path: Path
) -> None:
    folder = make_pictures(tmp_path / "data", classes=2, each=8)
    settings = replace(settings, data=str(folder))
    _, first = fit(settings, tmp_path, kill_after=1)
    (folder / "class1").rename(folder / "class9")
    with pytest.raises(TrainingError, match=r"classes of .* changed since epoch 1"):
        fit(settings, tmp_path, resume_from=first.saved[-1])


def test_options_are_checked_without_any_library() -> None:
    code = (
        "import sys; from orchestrator.trainer.options_timm import timm_options;"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert timm_options({"mixup": 1}).mixup == 1.0
    assert timm_options({}) == TimmOptions()
    assert all(option.doc and option.default is not None for option in TIMM_OPTIONS.values())
    for wrong in ({"mixup": "much"}, {"cos_lr": 1}, {"lrf": 2.0}, {"lrf": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            timm_options(wrong)


@pytest.mark.slow
def test_real_photos_are_learnt(
    settings: TrainSettings, tmp_path: Path, trash: Callable[[], Path]
) -> None:
    batch = BatchPlan(effective_batch=32, world_size=1, micro_batch=12)
    options: dict[str, Scalar] = {"ema_decay": 0.0, "color_jitter": 0.0}
    settings = replace(settings, data=str(trash()), imgsz=48, epochs=3, lr0=0.004, options=options)
    _, link = fit(settings, tmp_path, batch=batch)
    assert max(p.metrics[TOP1] for p in link.reported) > 0.3  # 6 classes alike: chance is 0.17
    assert {p.num_images for p in link.reported} == {640}


@pytest.fixture
def trash() -> Callable[[], Path]:
    def find() -> Path:
        beside = Path(__file__).parents[3] / "shared" / "data"
        folder = Path(os.environ.get("ORC_TEST_DATA", beside)) / "cls_trashnet6"
        if not folder.is_dir():
            pytest.skip(f"{folder} is not here; ORC_TEST_DATA names the folder of test data")
        return folder

    return find


KILLED = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
from tests.trainer.test_timm import RAGGED, RecordingLink, fit
from orchestrator.types import TrainSettings

class Fragile(RecordingLink):
    def step(self, step):
        super().step(step)
        if step.epoch == 3 and step.step == 2:
            refs = [asdict(ref) for ref in self.saved]
            told = [dict(progress.metrics) for progress in self.reported]
            Path(sys.argv[2], "told.json").write_text(json.dumps([refs, told]))
            os.kill(os.getpid(), signal.SIGKILL)

import tests.trainer.test_timm as module
module.RecordingLink = Fragile
fit(TrainSettings(**json.loads(sys.argv[1])), Path(sys.argv[2]), batch=RAGGED)
"""


@pytest.mark.slow
def test_a_killed_process_costs_the_epoch_under_way_and_nothing_else(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, epochs=5, workers=2, options=EVERYTHING)
    _, whole = fit(settings, tmp_path / "whole", batch=RAGGED)
    folder = tmp_path / "cut"
    folder.mkdir()
    fields = {name: getattr(settings, name) for name in TrainSettings.__slots__}
    child = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(fields), str(folder)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    refs, told = json.loads((folder / "told.json").read_text())
    assert len(told) == 2
    last = CheckpointRef(**{**refs[-1], "attempt": RecordingLink(folder).attempt})
    _, rest = fit(settings, folder, batch=RAGGED, resume_from=last)
    assert told + values(rest.reported) == close_to(whole)
