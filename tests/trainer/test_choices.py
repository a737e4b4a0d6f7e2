"""Settings that are measured: told from noise, tried once, and without a trace in the training."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import ConfigError
from orchestrator.trainer.choices import BOOK, chosen, kind_of
from orchestrator.trainer.compare import compared, verdict_of
from orchestrator.trainer.options_auto import auto_names
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of, values
from tests.trainer.picture_folders import make_pictures

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
    assert auto_names({"auto": "workers, channels_last"}) == ("channels_last", "workers")
    with pytest.raises(ConfigError, match="lr0"):
        auto_names({"auto": "lr0"})


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
    # Known now: with no time for a trial, the same is answered.
    again = chosen(task, CpuDevice(), 3, budget=0.0)
    assert tuple(map(str, again)) == progress.choices
    book = json.loads((tmp_path / "runs" / BOOK).read_text())
    assert list(book) == [kind_of(task, CpuDevice())]


def test_a_trial_that_takes_too_long_is_given_up_and_says_so(tmp_path: Path) -> None:
    settings = TrainSettings(
        model=VIT, data=str(tmp_path), imgsz=32, epochs=1, options={"auto": "compile"}
    )
    task = attempt_of(settings, tmp_path / "runs" / "one", batch=BATCH)
    (found,) = chosen(task, CpuDevice(), 3, budget=0.2)
    assert str(found) == "compile=false (abandoned: the trial took more than 0 s)"
    assert chosen(task, CpuDevice(), 3) == (found,)  # not tried again
