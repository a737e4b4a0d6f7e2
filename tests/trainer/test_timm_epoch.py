"""A classifier's epoch that is left halfway: kept, gone on with, and when it is not."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from jobs.rank_processes import found_by_ranks
from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import StoreError
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, CheckpointRef, Outcome, Progress, StopMode, TrainSettings
from tests.contracts.trainer import Killed, RecordingLink, attempt_of, values
from tests.trainer.gang_work import plan_of, timm_fit
from tests.trainer.gangs import in_turn
from tests.trainer.picture_folders import make_pictures
from tests.trainer.test_timm import (
    EVERYTHING,
    MODEL,
    RAGGED,
    WHOLE,
    close_to,
    fit,
)
from tests.trainer.test_timm import (
    WITHOUT_BATCHNORM as VIT,
)

EACH = 8  # pictures a class, of three: an epoch has three steps of 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", each=EACH)
    make_pictures(folder / "val", each=4, seed=1)
    return folder


@pytest.fixture
def settings(pictures: Path) -> TrainSettings:
    return TrainSettings(
        model=MODEL, data=str(pictures), imgsz=32, epochs=2, workers=0, seed=3, options=EVERYTHING
    )


def at(ask: int) -> Callable[[RecordingLink], StopMode | None]:
    """Ask to leave at a batch, once the trainer has come by so many times."""
    return lambda link: StopMode.AT_BATCH if link.num_asked > ask else None


@pytest.mark.parametrize(
    ("ask", "done"), [(1, 1), (2, 2), (3, 3), (4, 3)], ids=["one", "two", "all", "validation"]
)
def test_the_next_attempt_goes_on_after_the_steps_that_are_done(
    settings: TrainSettings, tmp_path: Path, ask: int, done: int
) -> None:
    _, whole = fit(settings, tmp_path / "whole", batch=RAGGED)
    outcome, first = fit(settings, tmp_path / "cut", batch=RAGGED, stop_when=at(ask))
    assert outcome is Outcome.YIELDED
    assert not first.reported
    assert [step.step for step in first.steps] == list(range(1, done + 1))
    outcome, second = fit(settings, tmp_path / "cut", batch=RAGGED)
    assert outcome is Outcome.FINISHED
    assert [step.step for step in second.steps if step.epoch == 1] == list(range(done + 1, 4))
    assert values(second.reported) == close_to(whole)


def test_it_can_be_left_again_and_again(settings: TrainSettings, tmp_path: Path) -> None:
    _, whole = fit(settings, tmp_path / "whole")
    told: list[tuple[int, int]] = []
    reported: list[Progress] = []
    newest: CheckpointRef | None = None
    for _ in range(20):
        outcome, link = fit(settings, tmp_path / "cut", stop_when=at(2), resume_from=newest)
        told += [(step.epoch, step.step) for step in link.steps]
        reported += link.reported
        newest = link.saved[-1] if link.saved else newest
        if outcome is Outcome.FINISHED:
            break
    assert told == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert values(reported) == close_to(whole)


def test_it_is_kept_every_so_many_minutes_for_whoever_is_killed(
    settings: TrainSettings, tmp_path: Path
) -> None:
    options = {**EVERYTHING, "save_minutes": 1e-9}
    settings = replace(settings, options=options)
    _, whole = fit(settings, tmp_path / "whole")
    told = [f"{epoch}-00{step}" for epoch in (0, 1) for step in (1, 2, 3)]
    assert [Path(ref.path).stem for ref in whole.kept] == told
    _, killed = fit(settings, tmp_path / "cut", stop_when=die_after(2))
    assert not killed.reported
    _, second = fit(settings, tmp_path / "cut")
    assert second.steps[0].step == 2, "the second step was done, and nobody asked since"
    assert values(second.reported) == close_to(whole)


def die_after(steps: int) -> Callable[[RecordingLink], StopMode | None]:
    def stop(link: RecordingLink) -> StopMode | None:
        if len(link.steps) == steps:
            raise Killed
        return None

    return stop


class Full(RecordingLink):
    """A link whose disk has no room for what is kept within an epoch."""

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        if step:
            raise StoreError("the disk is full", code="E5004")
        return super().save(epoch, write, is_best=is_best, check=check)


def test_an_epoch_that_cannot_be_kept_is_repeated_and_the_reason_told(
    settings: TrainSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, whole = fit(settings, tmp_path / "whole")
    link = Full(tmp_path / "cut" / "checkpoints", stop_when=at(2))
    with caplog.at_level(logging.WARNING):
        outcome, _ = TimmTrainer().fit(
            attempt_of(settings, tmp_path / "cut", batch=WHOLE), CpuDevice(), link
        )
    assert outcome is Outcome.YIELDED
    assert "not kept: the disk is full" in caplog.text
    _, second = fit(settings, tmp_path / "cut")
    assert second.steps[0].step == 1
    assert values(second.reported) == close_to(whole)


@pytest.mark.parametrize("other", ["batch", "pictures", "checkpoint"])
def test_what_was_kept_of_another_training_is_not_gone_on_with(
    settings: TrainSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    """Such as: the newest checkpoint was damaged, and the run goes on from an earlier one."""
    stop_when, resume_from, batch = at(2), None, WHOLE
    if other == "checkpoint":
        stop_when = at(7)  # in the second epoch
    _, first = fit(settings, tmp_path / "cut", stop_when=stop_when)
    if other == "batch":
        batch = BatchPlan(effective_batch=12, world_size=1, micro_batch=12)
    elif other == "pictures":
        settings = replace(settings, options={**EVERYTHING, "fraction": 0.8})
    else:
        (resume_from,) = first.saved
        resume_from = replace(resume_from, sha256="another")
    with caplog.at_level(logging.WARNING):
        _, second = fit(settings, tmp_path / "cut", batch=batch, resume_from=resume_from)
    assert f"not gone on from, other: {other}" in caplog.text
    assert second.steps[0].step == 1
    assert [progress.epoch for progress in second.reported][-1] == 2


def test_a_gang_goes_on_where_all_its_ranks_have_left(pictures: Path, tmp_path: Path) -> None:
    settings = TrainSettings(model=VIT, data=str(pictures), imgsz=32, epochs=2, workers=0, seed=3)
    batch = plan_of(7, 2, 2)
    works: list[Any] = [
        (timm_fit, (str(tmp_path / folder), settings, batch, stop_at, None))
        for folder, stop_at in (("whole", None), ("cut", 2), ("cut", None))
    ]
    (whole, left, again), _ = found_by_ranks(2, in_turn, works)
    assert [row[0] for row in (whole, left, again)] == [
        Outcome.FINISHED, Outcome.YIELDED, Outcome.FINISHED
    ]  # fmt: skip
    assert again[4] == whole[4] - 2, "two steps were done, and are not asked about again"
    for mine, wanted in zip(values(again[2]), values(whole[2]), strict=True):
        assert mine == pytest.approx(wanted, rel=1e-4)
