"""When a driver, or the Ray under it, is killed: nothing hangs, nothing stays, nothing is lost."""

from pathlib import Path

import pytest

from jobs.bench_chaos import EPOCHS, drill
from jobs.chaos import violations

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("target", ["driver", "worker", "ray"])
def test_kills_at_random_moments_lose_and_double_nothing(target: str, tmp_path: Path) -> None:
    tally = drill(target, 2, 1, tmp_path)
    assert violations(tally, tmp_path, EPOCHS) == []
    assert tally.kills == 2
    assert tally.epochs == tally.runs * EPOCHS
