"""BatchNorm of a YOLO model over the ranks of a gang computes what it would on one rank."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.rank_processes import found_by_ranks
from orchestrator.trainer.yolo_apart import apart
from orchestrator.types import Outcome, TrainSettings
from tests.contracts.trainer import values
from tests.trainer.gang_work import plan_of
from tests.trainer.gang_yolo_work import yolo_fit
from tests.trainer.gangs import in_turn
from tests.trainer.norm_sync_yolo_work import yolo_stepped
from tests.trainer.test_gang_timm import difference
from tests.trainer.test_gang_yolo import PLAIN
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

TOLERANCE = 1e-5  # relative, of all gradients together, and of all running statistics
OTHERS = ("yolo26n.yaml", "yolov8n-seg.yaml", "yolo26n-pose.yaml", "yolo11n-cls.yaml")
INTERLEAVED = (0, 2, 4, 1, 3)  # of ranks with 2, 2 and 1 pictures: the first of each, then the rest


def check(names: tuple[str, ...], folder: str) -> None:
    """Five pictures over three ranks: whole, and one at a time, where the last rank has fewer.

    The third picture, alone in a piece of its rank, has no objects.
    """
    works: list[Any] = [
        (yolo_stepped, (name, plan_of(5, 3, size), folder)) for name in names for size in (2, 1)
    ]
    found = zip(*found_by_ranks(3, in_turn, works), strict=True)
    cases = [(name, order) for name in names for order in (None, INTERLEAVED)]
    for (name, order), rows in zip(cases, found, strict=True):
        plan = plan_of(5, 1, 5 if order is None else 3)
        whole, kept, loss, items = yolo_stepped(0, name, plan, folder, order)
        assert sum(part for _, _, part, _ in rows) == pytest.approx(loss, rel=1e-5), name
        for key, value in items.items():
            assert sum(row[3][key] for row in rows) == pytest.approx(value, rel=1e-5), name
        for mine, statistics, _, _ in rows:
            assert difference(whole, mine) < TOLERANCE, (name, order)
            assert difference(kept, statistics) < TOLERANCE, (name, order)
            assert all(np.array_equal(statistics[n], rows[0][1][n]) for n in statistics)
            assert all(np.array_equal(mine[n], rows[0][0][n]) for n in mine)


def test_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    check(("yolov8n.yaml",), str(tmp_path))


def test_a_gang_trains_like_one_rank_and_leaves_plain_files(tmp_path: Path) -> None:
    """Seven pictures by four: the last step of an epoch has 2 + 1."""
    data = make_yolo_data(tmp_path / "data", train=7, val=3)
    settings = TrainSettings(
        model="yolov8n.yaml", data=str(data), imgsz=64, epochs=2, workers=0, amp="fp32",
        optimizer="SGD", lr0=0.001, options={**PLAIN, "warmup_epochs": 0, "ddp_sync_bn": True},
    )  # fmt: skip
    one, two = plan_of(4, 1, 4), plan_of(4, 2, 2)
    found = found_by_ranks(2, yolo_fit, str(tmp_path / "two"), settings, two, None, None)
    (alone,) = found_by_ranks(1, yolo_fit, str(tmp_path / "one"), settings, one, None, None)
    assert {row[0] for row in found} == {Outcome.FINISHED}
    for mine, wanted in zip(values(found[0][2]), values(alone[2]), strict=True):
        assert mine == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    best = next((tmp_path / "two").rglob("best.pt"))
    assert b"norm_sync" not in best.read_bytes()
    with apart(str(tmp_path / "again")):
        from ultralytics.nn.tasks import load_checkpoint

        model, _ = load_checkpoint(best)
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    assert {type(norm) for norm in norms} == {torch.nn.BatchNorm2d}
    assert not any("forward" in vars(norm) for norm in norms)


@pytest.mark.slow
def test_every_kind_of_loss_has_them(tmp_path: Path) -> None:
    check(OTHERS, str(tmp_path))
