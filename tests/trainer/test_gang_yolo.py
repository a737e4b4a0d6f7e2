"""A YOLO model on several ranks learns what it would learn on one, objects weighed alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.rank_processes import found_by_ranks
from orchestrator.types import BatchPlan, Outcome, TrainSettings
from tests.contracts.trainer import values
from tests.trainer.gang_work import plan_of
from tests.trainer.gang_yolo_work import yolo_fit, yolo_gradients
from tests.trainer.gangs import in_turn
from tests.trainer.test_gang_timm import difference
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

TOLERANCE = 1e-4  # relative, of all gradients together; sums of fp32 in another order
OTHERS = ("yolo26n.yaml", "yolov8n-seg.yaml", "yolo26n-pose.yaml", "yolo11n-cls.yaml")


def check(count: int, cases: list[tuple[str, int]], folder: str) -> None:
    """Cases are a model, and the largest piece; seven pictures, one of them without objects."""
    works: list[Any] = [
        (yolo_gradients, (name, plan_of(7, count, micro_batch), f"{folder}/{count}"))
        for name, micro_batch in cases
    ]
    by_case = zip(*found_by_ranks(count, in_turn, works), strict=True)
    for (name, _), found in zip(cases, by_case, strict=True):
        whole, loss, items = yolo_gradients(0, name, plan_of(7, 1, 7), folder)
        assert sum(part for _, part, _ in found) == pytest.approx(loss, rel=TOLERANCE)
        for key, value in items.items():
            assert sum(part[key] for _, _, part in found) == pytest.approx(value, rel=TOLERANCE)
        for mine, _, _ in found:
            assert difference(whole, mine) < TOLERANCE, name
            assert all(np.array_equal(mine[n], found[0][0][n]) for n in mine)


def test_ragged_shards_have_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    check(2, [("yolo11n.yaml", 4)], str(tmp_path))
    check(3, [("yolo11n.yaml", 2)], str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_every_kind_of_loss_is_that_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    most = -(-7 // count)  # of a rank
    check(count, [(name, size) for name in OTHERS for size in (most, 2)], str(tmp_path))


PLAIN = {  # nothing that is drawn by each rank for itself
    "mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "translate": 0.0, "scale": 0.0,
    "fliplr": 0.0, "erasing": 0.0,
}  # fmt: skip


def test_a_gang_trains_validates_and_leaves_together(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "data", train=8, val=5)
    settings = TrainSettings(
        model="yolo11n.yaml", data=str(data), imgsz=64, epochs=2, workers=0, amp="fp32",
        options=PLAIN,
    )  # fmt: skip
    one, two = plan_of(3, 1, 1), plan_of(3, 2, 1)  # pieces of one: BatchNorm sees the same
    works: list[Any] = [
        (yolo_fit, (str(tmp_path / "two"), settings, two, None, None)),
        (yolo_fit, (str(tmp_path / "left"), settings, two, 1, None)),
        (yolo_fit, (str(tmp_path / "left"), settings, two, None, None)),
    ]
    whole, left, again = zip(*found_by_ranks(2, in_turn, works), strict=True)
    (alone,) = found_by_ranks(1, yolo_fit, str(tmp_path / "one"), settings, one, None, None)
    assert {row[0] for row in whole} == {Outcome.FINISHED}
    assert {row[0] for row in left} == {Outcome.YIELDED}
    assert {row[4] for row in left} == {2}
    assert {row[4] for row in again} == {whole[0][4] - 2}, "it goes on after two steps"
    for mine, told in zip(values(again[0][2]), values(whole[0][2]), strict=True):
        assert mine == pytest.approx(told, rel=1e-3, abs=1e-4)
    assert [progress.epoch for progress in whole[0][2]] == [1, 2]
    assert not whole[1][2]
    assert not whole[1][3]
    first, wanted = values(whole[0][2])[0], values(alone[2])[0]
    for name in wanted:
        assert first[name] == pytest.approx(wanted[name], rel=1e-2, abs=1e-4), name
    batch: BatchPlan = one
    assert batch.effective_batch == two.effective_batch
