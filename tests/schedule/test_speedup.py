"""Speeds at widths are learned by the time of an image, from epochs and from first steps."""

import pytest

from orchestrator.schedule.speedup import ASSUMED_SYNC, Speedups
from orchestrator.types import Pace
from tests.strategies import make_spec

SPEC = make_spec("r", num_gpus=8, min_gpus=1, batch=64)


def test_until_something_is_known_synchronization_is_assumed() -> None:
    expected = (1.0 + ASSUMED_SYNC) / (1.0 / 8 + ASSUMED_SYNC)
    assert Speedups().of(SPEC, 8) == pytest.approx(expected)
    assert Speedups().seconds_of_one(SPEC) is None


def test_epochs_of_other_lengths_are_compared_by_the_image() -> None:
    speedups = Speedups()
    speedups.progressed(SPEC, 1, 100.0, 1000)
    speedups.progressed(SPEC, 4, 300.0, 9000)  # three times as fast, not a third
    assert speedups.of(SPEC, 4) == pytest.approx(3.0)
    assert 1.0 < speedups.of(SPEC, 2) < 3.0


def test_where_images_are_not_counted_epochs_are_compared() -> None:
    speedups = Speedups()
    speedups.progressed(SPEC, 1, 100.0)
    speedups.progressed(SPEC, 4, 50.0)
    assert speedups.of(SPEC, 4) == pytest.approx(2.0)
    assert speedups.seconds_of_one(SPEC) == pytest.approx(100.0)


def test_seconds_of_one_are_those_of_the_epochs_that_were_seen_last() -> None:
    speedups = Speedups()
    for _ in range(50):
        speedups.progressed(SPEC, 1, 10.0, 100)
    for _ in range(50):
        speedups.progressed(SPEC, 1, 30.0, 300)
    assert speedups.seconds_of_one(SPEC) == pytest.approx(30.0, rel=1e-3)


def test_first_steps_count_until_there_is_an_epoch_of_that_width() -> None:
    speedups = Speedups()
    speedups.progressed(SPEC, 1, 100.0, 100)
    speedups.measured(SPEC, 4, Pace(epoch=2, seconds=40.0, num_images=100))
    assert speedups.of(SPEC, 4) == pytest.approx(2.5)
    speedups.progressed(SPEC, 4, 50.0, 100)  # validation and the checkpoint included
    assert speedups.of(SPEC, 4) == pytest.approx(2.0)
    speedups.measured(SPEC, 4, Pace(epoch=3, seconds=40.0, num_images=100))
    assert speedups.of(SPEC, 4) == pytest.approx(2.0)


@pytest.mark.parametrize(("width", "seconds"), [(0, 10.0), (2, 0.0)])
def test_what_took_no_time_or_no_card_tells_nothing(width: int, seconds: float) -> None:
    speedups = Speedups()
    speedups.progressed(SPEC, width, seconds, 10)
    speedups.measured(SPEC, width, Pace(epoch=1, seconds=seconds, num_images=10))
    assert speedups.seconds_of_one(SPEC) is None
