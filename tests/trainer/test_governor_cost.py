"""The bench of the governor takes real steps of both trainers, with and without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.bench_governor import classifier, detector, timed_governor
from orchestrator.trainer.yolo_apart import apart


@pytest.mark.parametrize(
    ("model", "make"), [("mobilenetv3_small_050", classifier), ("yolo11n.yaml", detector)]
)
def test_a_step_under_the_governor_tells_its_seconds(
    model: str, make: Callable[[str, int, Any], Callable[[], object]], tmp_path: Path
) -> None:
    with apart(str(tmp_path)):
        timed = timed_governor(tmp_path, model)
        governed, plain = make(model, 64, timed), make(model, 64, None)
        for _ in range(2):
            governed()
            plain()
    assert len(timed.seconds) == 2
    assert all(each > 0 for each in timed.seconds)
