"""Settings that are measured: told from noise, tried once, and without a trace in the training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import ConfigError
from orchestrator.trainer.choices import Choices, chosen
from orchestrator.trainer.compare import compared, verdict_of
from orchestrator.trainer.options_auto import auto_names, card_named, kind_of
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import BatchPlan, Finding, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of, values
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

VIT = "timm/test_vit.r160_in1k"
BATCH = BatchPlan(effective_batch=8, world_size=1, micro_batch=8)


def test_a_gain_beyond_the_noise_is_kept_and_nothing_else() -> None:
    steady = [(1.10, 1.0), (1.11, 1.0), (1.09, 1.0), (1.10, 1.0), (1.12, 1.0)]
    assert verdict_of(steady).is_faster
    assert verdict_of(steady).ratio == pytest.approx(1.10)
    assert not verdict_of([(b, a) for a, b in steady]).is_faster
    assert verdict_of([*steady, (0.2, 1.0)]).is_faster  # one round was spoilt
    wild = [(1.6, 1.0), (0.7, 1.0), (1.1, 1.0), (0.8, 1.0), (1.5, 1.0)]
    assert verdict_of(wild).ratio == pytest.approx(1.1)
    assert not verdict_of(wild).is_faster
    assert not verdict_of([(1.01, 1.0)] * 9).is_faster  # sure, and not worth it
    with pytest.raises(ValueError, match="2 rounds"):
        verdict_of(steady[:2])


def test_both_ways_take_turns_at_going_first() -> None:
    ran: list[str] = []
    now = [0.0]

    def way(name: str, seconds: float) -> Iterator[None]:
        while True:
            ran.append(name)
            now[0] += seconds
            yield

    base, other = way("base", 3.0), way("other", 2.0)
    found = compared(lambda: next(base), lambda: next(other), rounds=4, clock=lambda: now[0])
    assert found.ratio == pytest.approx(1.5)
    assert found.is_faster
    assert ran[2:] == ["other", "base", "base", "other", "other", "base", "base", "other"]


def test_only_what_can_be_measured_is_left_to_a_measurement() -> None:
    assert auto_names("timm", {"auto": "workers, channels_last"}) == ("channels_last", "workers")
    assert auto_names("yolo", {"auto": "workers, cache"}) == ("cache", "workers")
    assert auto_names("fake", {}) == ()
    for trainer, name in (("timm", "lr0"), ("yolo", "compile"), ("fake", "workers")):
        with pytest.raises(ConfigError, match=f"auto is not offered for {name}"):
            auto_names(trainer, {"auto": name})


def test_a_trial_is_made_once_and_changes_nothing_of_the_training(tmp_path: Path) -> None:
    make_pictures(tmp_path / "data" / "train", each=8)
    make_pictures(tmp_path / "data" / "val", each=2, seed=1)
    settings = TrainSettings(
        model=VIT, data=str(tmp_path / "data"), imgsz=32, epochs=1, workers=1, seed=3
    )
    plain = RecordingLink(tmp_path / "plain" / "checkpoints")
    TimmTrainer().fit(attempt_of(settings, tmp_path / "plain", batch=BATCH), CpuDevice(), plain)
    asking = replace(settings, options={"auto": "cache, workers, pin_memory"})
    task = attempt_of(asking, tmp_path / "runs" / "one", batch=BATCH)
    link = RecordingLink(tmp_path / "runs" / "one" / "checkpoints")
    TimmTrainer().fit(task, CpuDevice(), link)
    (progress,) = link.reported
    assert values(link.reported) == values(plain.reported)
    names = [text.partition("=")[0] for text in progress.choices]
    assert names == ["pin_memory", "cache", "workers"]
    assert progress.choices[0] == "pin_memory=false (there is no card to copy to)"
    assert "rounds" in progress.choices[1]
    assert "a step takes" in progress.choices[2]
    assert tuple(map(str, progress.findings)) == progress.choices
    assert {found.card for found in progress.findings} == {"CPU"}
    assert all(found.is_measured for found in progress.findings)
    # Known now: with no time for a trial, the same is answered, also where nothing is shared.
    elsewhere = attempt_of(asking, tmp_path / "elsewhere" / "two", batch=BATCH)
    elsewhere = replace(elsewhere, findings=progress.findings)
    again = chosen("timm", elsewhere, CpuDevice(), {"num_classes": 3}, budget=0.0)
    assert again == progress.findings
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_what_was_tried_is_told_with_one_epoch_and_what_was_known_with_none() -> None:
    known, new = (
        Finding(trainer="timm", card="CPU", model=VIT, kind="k", name=name, value=1, told="t")
        for name in ("cache", "workers")
    )
    choices = Choices((known, new), known=(known,))
    first, second = choices.told(), choices.told()
    assert first == {"choices": ("cache=1 (t)", "workers=1 (t)"), "findings": (new,)}
    assert second == {**first, "findings": ()}


@pytest.mark.parametrize(
    "spoilt",
    [
        {"value": "many"},  # of another version
        {"value": True},
        {"value": -1},
        {"card": "NVIDIA A100"},
        {"model": "timm/resnet18"},
        {"kind": "imgsz=32"},
        {"trainer": "yolo"},
    ],
)
def test_what_holds_for_something_else_or_makes_no_sense_is_not_taken(
    tmp_path: Path, spoilt: dict[str, Any]
) -> None:
    settings = TrainSettings(
        model=VIT, data=str(tmp_path), imgsz=32, epochs=1, workers=4, options={"auto": "workers"}
    )
    task = attempt_of(settings, tmp_path / "runs" / "one", batch=BATCH)
    (default,) = chosen("timm", task, CpuDevice(), {"num_classes": 3}, budget=0.0)
    good = replace(default, value=2, told="a step takes 3 ms", is_measured=True)
    told = replace(task, findings=(good, replace(good, **spoilt)))
    assert chosen("timm", told, CpuDevice(), {"num_classes": 3}, budget=0.0) == (good,)
    told = replace(task, findings=(replace(good, **spoilt),))
    (found,) = chosen("timm", told, CpuDevice(), {"num_classes": 3}, budget=0.0)
    assert not found.is_measured
    assert found.value == 4


def test_an_answer_holds_for_what_it_depends_on_and_no_less() -> None:
    def kind(name: str = "compile", *, batch: int = 8, cpus: int = 4, cpu: bool = False,
             versions: str = "torch=2", **changed: Any) -> str:  # fmt: skip
        settings = TrainSettings(model=VIT, data="/a/cells", imgsz=32, epochs=1, workers=8)
        return kind_of(
            name,
            replace(settings, **changed),
            micro_batch=batch,
            num_cpus=cpus,
            versions=versions,
            is_on_cpu=cpu,
        )

    assert kind(batch=8) == kind(batch=15) != kind(batch=16)
    assert kind() == kind(data="/b/cells", cpus=8, workers=2, seed=4)
    assert len({kind(), kind(imgsz=64), kind(amp="bf16"), kind(versions="torch=3")}) == 4
    assert kind(cpu=True) != kind(cpu=True, cpus=8)
    assert len({kind("cache"), kind("cache", data="/b/cells"), kind("cache", cpus=8)}) == 3
    assert kind("workers") != kind("workers", workers=2)
    assert card_named("NVIDIA GeForce RTX 4090") == card_named("RTX 4090") == "RTX 4090"
    assert card_named("rtx 4090 (emulated)") == "RTX 4090 (emulated)"
    assert card_named("a card to come") == "a card to come"


def test_a_trial_that_takes_too_long_is_given_up_and_says_so(tmp_path: Path) -> None:
    settings = TrainSettings(
        model=VIT, data=str(tmp_path), imgsz=32, epochs=1, options={"auto": "compile"}
    )
    task = attempt_of(settings, tmp_path / "runs" / "one", batch=BATCH)
    (found,) = chosen("timm", task, CpuDevice(), {"num_classes": 3}, budget=0.2)
    assert str(found) == "compile=false (abandoned: the trial took more than 0 s)"
    assert not found.is_measured
    told = replace(task, findings=(found,))
    assert chosen("timm", told, CpuDevice(), {"num_classes": 3}) == (found,)  # not tried again


@pytest.mark.parametrize("kind", ["detect", "classify"])
def test_a_yolo_model_is_tried_on_its_own_pictures(tmp_path: Path, kind: str) -> None:
    if kind == "detect":
        data, model = make_yolo_data(tmp_path / "set", train=8, val=2), "yolov8n.yaml"
    else:
        data, model = tmp_path / "set", "yolov8n-cls.yaml"
        make_pictures(data / "train", each=4)
        make_pictures(data / "val", each=2, seed=1)
    settings = TrainSettings(
        model=model,
        data=str(data),
        imgsz=32,
        epochs=1,
        workers=1,
        amp="fp32",
        optimizer="SGD",
        options={"auto": "channels_last, cache, workers"},
    )
    folder = tmp_path / "runs" / "one"
    task = attempt_of(settings, folder, batch=BATCH)
    link = RecordingLink(folder / "checkpoints")
    YoloTrainer().fit(task, CpuDevice(), link)
    (progress,) = link.reported
    names = [text.partition("=")[0] for text in progress.choices]
    assert names == ["channels_last", "cache", "workers"]
    assert "on CUDA cards only" in progress.choices[0]
    assert "5 rounds" in progress.choices[1]
    assert "a step takes" in progress.choices[2]
    assert tuple(map(str, progress.findings)) == progress.choices
    assert all("ultralytics=" in found.kind for found in progress.findings)
