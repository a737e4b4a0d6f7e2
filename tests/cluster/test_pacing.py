"""The pace of an attempt is told once, by steps of its first epoch, where that is long enough."""

from orchestrator.cluster.pacing import PaceMeter
from orchestrator.types import Pace, Seconds, StepProgress


def step_of(number: int, epoch: int = 1) -> StepProgress:
    return StepProgress(epoch=epoch, epochs=9, step=number, num_steps=400, images_per_second=1.0)


def told(signs: list[tuple[Seconds, StepProgress]]) -> list[tuple[Seconds, Pace]]:
    meter = PaceMeter(images_of_step=32)
    paces = [(at, meter.step(at, step)) for at, step in signs]
    return [(at, pace) for at, pace in paces if pace is not None]


def test_the_first_step_is_left_out_and_the_pace_told_once() -> None:
    signs = [(100.0 + 2.0 * number, step_of(number)) for number in range(1, 100)]
    signs[0] = (60.0 + 42.0, step_of(1))  # however long it took to come to the first step
    assert told(signs) == [(132.0, Pace(epoch=1, seconds=800.0, num_images=400 * 32))]


def test_an_epoch_that_is_over_tells_by_itself() -> None:
    signs = [(0.1 * number, step_of(number)) for number in range(1, 101)]
    signs += [(11.0 + 0.1 * number, step_of(number, epoch=2)) for number in range(1, 400)]
    assert told(signs) == []


def test_signs_of_one_step_measure_nothing() -> None:
    signs = [(10.0 * number, step_of(1)) for number in range(10)]
    assert told(signs) == []
    assert told([*signs, (100.0, step_of(2))]) == [
        (100.0, Pace(epoch=1, seconds=100.0 * 400, num_images=400 * 32))
    ]
