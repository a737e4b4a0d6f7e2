"""When a driver, or the Ray under it, is killed: nothing hangs, nothing stays, nothing is lost."""

from pathlib import Path

import pytest

from jobs.bench_chaos import drill
from jobs.chaos import violations
from jobs.chaos_work import StubWork

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("target", ["driver", "worker", "ray"])
def test_kills_at_random_moments_lose_and_double_nothing(target: str, tmp_path: Path) -> None:
    work = StubWork()
    tally = drill(target, 2, 1, tmp_path, work)
    assert violations(tally, tmp_path, work.epochs) == []
    assert tally.kills == 2
    assert tally.epochs == tally.runs * work.epochs
