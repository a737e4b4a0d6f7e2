"""How long an attempt may be silent follows what was measured of it."""

import pytest

from orchestrator.cluster.pulse import Patience, Pulse
from orchestrator.types import Progress, StepProgress

PATIENCE = Patience(start_seconds=3600.0, floor_seconds=600.0, multiple=20.0)


def step(number: int, *, epoch: int = 1, num_steps: int = 100) -> StepProgress:
    return StepProgress(
        epoch=epoch, epochs=9, step=number, num_steps=num_steps, images_per_second=1.0
    )


def epoch(number: int) -> Progress:
    return Progress(epoch=number, epochs=9, metrics={}, seconds=1.0, num_images=1)


def one_epoch(pulse: Pulse, at: float, number: int, *, seconds: float, pause: float) -> float:
    """Steps of `seconds`, then `pause` until the report."""
    for num in range(1, 101):
        at += seconds
        pulse.sign(at, step(num, epoch=number))
    at += pause
    pulse.sign(at, epoch(number))
    return at


def test_what_was_never_measured_gets_the_patience_of_the_start() -> None:
    pulse = Pulse(PATIENCE, 0.0)
    assert (pulse.limit, pulse.silence(100.0)) == (3600.0, 100.0)
    pulse.sign(50.0, step(1))
    assert pulse.limit == 3600.0, "one step does not tell how long steps take"


def test_from_step_to_step_the_limit_is_a_multiple_of_the_longest_with_a_floor() -> None:
    pulse = Pulse(PATIENCE, 0.0)
    for num in range(1, 6):
        pulse.sign(float(num), step(num))
    assert pulse.is_mid_epoch
    assert (pulse.longest, pulse.limit) == (1.0, 600.0)
    pulse.sign(105.0, step(6))
    assert (pulse.longest, pulse.limit) == (100.0, 2000.0)


@pytest.mark.parametrize("last", [98, 99, 100])
def test_a_first_validation_may_take_far_longer_than_a_step(last: int) -> None:
    pulse = Pulse(PATIENCE, 0.0)
    for num in range(1, last + 1):
        pulse.sign(float(num), step(num))
    assert pulse.limit == 3600.0, "reports are thinned out: this may be the last step"


def test_once_a_validation_was_measured_its_multiple_is_the_limit() -> None:
    pulse = Pulse(PATIENCE, 0.0)
    at = one_epoch(pulse, 0.0, 1, seconds=1.0, pause=50.0)
    assert pulse.limit == 20 * 50.0
    at = one_epoch(pulse, at, 2, seconds=1.0, pause=10.0)
    assert pulse.limit == 20 * 50.0, "the longest counts"
    pulse.sign(at + 1, step(1, epoch=3))
    pulse.sign(at + 2, step(2, epoch=3))
    assert pulse.limit == 600.0


def test_what_the_worker_itself_tells_moves_the_beginning_of_the_silence_only_forward() -> None:
    pulse = Pulse(PATIENCE, 0.0)
    pulse.sign(500.0)
    assert pulse.silence(700.0) == 200.0
    pulse.sign(400.0)
    assert pulse.silence(700.0) == 200.0
    assert pulse.limit == 3600.0


def test_a_long_step_that_is_said_to_be_one_is_learnt() -> None:
    pulse = Pulse(PATIENCE, 0.0)
    for num in range(1, 4):
        pulse.sign(float(num), step(num))
    pulse.sign(503.0)
    assert (pulse.longest, pulse.limit) == (500.0, 10_000.0)
