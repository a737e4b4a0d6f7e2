"""When a driver looks at what people ask for."""

import pytest

from orchestrator.cluster.beat import Beat


@pytest.mark.parametrize(
    ("now", "until", "seconds"),
    [
        (100.0, None, 0.5),
        (100.0, 100.2, 0.2),
        (100.0, 200.0, 0.5),
        (100.0, 99.0, 0.0),
    ],
)
def test_it_looks_twice_a_second_and_when_something_is_due(
    now: float, until: float | None, seconds: float
) -> None:
    assert Beat().seconds(now, until) == pytest.approx(seconds)


def test_it_looks_often_for_a_moment_after_an_end_and_for_less_after_an_epoch() -> None:
    ended, reported = Beat(), Beat()
    ended.ended(100.0)
    reported.reported(100.0)
    assert ended.seconds(100.9, None) == reported.seconds(100.2, None) == 0.05
    assert ended.seconds(101.1, None) == reported.seconds(100.4, None) == 0.5
    ended.reported(100.0)  # does not end what is longer
    assert ended.seconds(100.9, None) == 0.05
