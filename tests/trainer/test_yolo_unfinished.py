"""A detector's epoch that is left halfway: kept, and gone on with as if nothing had been."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.types import BatchPlan, Outcome, StopMode, TrainSettings
from tests.contracts.trainer import RecordingLink, values
from tests.trainer.picture_folders import make_pictures
from tests.trainer.test_yolo import CUT, WHOLE, fit, settings_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

STEPS = 3  # of an epoch; the trainer asks after each
ASKS = STEPS + 2  # and before the one batch of its validation, and when the epoch is reported


def leave(
    ask: int, mode: StopMode = StopMode.AT_BATCH
) -> Callable[[RecordingLink], StopMode | None]:
    return lambda link: mode if link.num_asked >= ask else None


def data_of(folder: Path, model: str) -> Path:
    if "cls" not in model:
        return make_yolo_data(folder / "set", train=4 * STEPS, val=2)
    make_pictures(folder / "set" / "train", classes=2, each=2 * STEPS)
    make_pictures(folder / "set" / "val", classes=2, each=1)
    return folder / "set"


def resumed(
    settings: TrainSettings, folder: Path, batch: BatchPlan, ask: int
) -> tuple[RecordingLink, RecordingLink]:
    first, outcome = fit(settings, folder, batch, stop_when=leave(ask))
    assert outcome is Outcome.YIELDED
    newest = first.saved[-1] if first.saved else None
    second, outcome = fit(settings, folder, batch, resume_from=newest)
    assert outcome is Outcome.FINISHED
    return first, second


@pytest.mark.parametrize(
    ("model", "batch", "asks"),
    [
        # After one step, after all, in the validation, in the second epoch, where mosaic is closed.
        ("yolo11n.yaml", CUT, (1, 3, 4, 7, 11)),
        ("yolo26n.yaml", WHOLE, (6, 8, 9)),  # its loss changes from epoch to epoch
        ("yolo11n-cls.yaml", WHOLE, (2,)),
    ],
)
def test_the_next_attempt_goes_on_after_the_steps_that_are_done(
    tmp_path: Path, model: str, batch: BatchPlan, asks: tuple[int, ...]
) -> None:
    settings = settings_of(data_of(tmp_path, model), model=model)
    whole, _ = fit(settings, tmp_path / "whole", batch)
    for ask in asks:
        first, second = resumed(settings, tmp_path / str(ask), batch, ask)
        epochs, steps = ask // ASKS, min(ask % ASKS, STEPS)
        assert [progress.epoch for progress in first.reported] == list(range(1, epochs + 1))
        assert [Path(ref.path).stem for ref in first.kept] == [f"{epochs}-00{steps}"]
        repeated = int(ask % ASKS > STEPS)  # a validation begins anew
        assert second.num_asked == whole.num_asked - ask + repeated, "of what is done none is"
        found = values(first.reported + second.reported)
        for mine, wanted in zip(found, values(whole.reported), strict=True):
            assert mine == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_an_epoch_that_is_abandoned_or_of_another_training_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(data_of(tmp_path, "yolo11n.yaml"), epochs=1)
    first, _ = fit(settings, tmp_path / "a", stop_when=leave(2, StopMode.ABANDON))
    assert not first.kept
    fit(settings, tmp_path / "b", stop_when=leave(2))
    other = replace(WHOLE, effective_batch=6, micro_batch=6)
    with caplog.at_level(logging.WARNING):
        second, outcome = fit(settings, tmp_path / "b", other)
    assert outcome is Outcome.FINISHED
    assert "not gone on from, other: batch" in caplog.text
    assert second.num_asked == 4 * STEPS / 6 + 2
