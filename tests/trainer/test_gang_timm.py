"""A classifier on several ranks learns what it would learn on one, to the last picture."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.rank_processes import found_by_ranks
from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import StoreError
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, Outcome, Scalar, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of, values
from tests.trainer.gang_work import emulated_fit, plan_of, timm_fit, timm_gradients
from tests.trainer.gangs import in_turn
from tests.trainer.picture_folders import make_pictures

RESNET = "timm/test_resnet.r160_in1k"
VIT = "timm/test_vit.r160_in1k"


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all gradients together, relative."""
    assert one.keys() == other.keys()
    wrong = sum(float(((one[n] - other[n]) ** 2).sum()) for n in one)
    whole = sum(float((one[n] ** 2).sum()) for n in one)
    return float(np.sqrt(wrong / whole))


CASES: dict[int, list[tuple[str, int, dict[str, Scalar]]]] = {
    2: [(RESNET, 4, {"ddp_bucket_mb": 1}), (VIT, 3, {"ddp_bucket_mb": 1, "ddp_overlap": False})],
    3: [(RESNET, 2, {"ddp_bucket_mb": 1, "ddp_overlap": False}), (VIT, 3, {"ddp_bucket_mb": 1})],
}


@pytest.mark.parametrize("count", [2, 3])
def test_ragged_shards_have_the_gradients_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    """Seven samples; each rank's pieces are ragged too."""
    folder = str(tmp_path)
    works: list[Any] = [
        (timm_gradients, (name, plan_of(7, count, micro_batch), options, folder))
        for name, micro_batch, options in CASES[count]
    ]
    by_case = zip(*found_by_ranks(count, in_turn, works), strict=True)
    for (name, _, options), found in zip(CASES[count], by_case, strict=True):
        whole, loss, _ = timm_gradients(0, name, plan_of(7, 1, 7), options, folder)
        assert sum(part for _, part, _ in found) == pytest.approx(loss, rel=1e-5)
        assert {num_buckets > 1 for _, _, num_buckets in found} == {True}
        for mine, _, _ in found:
            assert difference(whole, mine) < 1e-5
            assert all(np.array_equal(mine[n], found[0][0][n]) for n in mine)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", each=8)
    make_pictures(folder / "val", each=3, seed=1)  # 9: not to be divided by 2
    return folder


def test_a_gang_trains_like_one_rank_and_validates_every_picture_once(
    pictures: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(model=VIT, data=str(pictures), imgsz=32, epochs=3, workers=0, seed=3)
    alone = RecordingLink(tmp_path / "one" / "checkpoints")
    one = plan_of(7, 1, 7)
    TimmTrainer().fit(attempt_of(settings, tmp_path / "one", batch=one), CpuDevice(), alone)
    batch = plan_of(7, 2, 2)
    found = found_by_ranks(2, timm_fit, str(tmp_path / "two"), settings, batch, None, None)
    (outcome, _, reported, saved, asked), (other, _, silent, none, asked_too) = found
    assert outcome is other is Outcome.FINISHED
    assert not silent
    assert not none
    assert asked == asked_too
    assert [ref.epoch for ref in saved] == [1, 2, 3]
    for mine, wanted in zip(values(reported), values(alone.reported), strict=True):
        assert mine == pytest.approx(wanted, rel=1e-4)
    assert (tmp_path / "two" / "weights" / "best.pt").exists()
    # The same weights, judged by one rank and by two: every picture counts once.
    again = RecordingLink(tmp_path / "two" / "checkpoints", resume_from=saved[1])
    TimmTrainer().fit(attempt_of(settings, tmp_path / "two", batch=one), CpuDevice(), again)
    assert values(again.reported)[0] == pytest.approx(values(reported)[2], rel=1e-4)


def test_all_ranks_leave_at_the_batch_at_which_the_first_was_asked_to(
    pictures: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(model=VIT, data=str(pictures), imgsz=32, epochs=3, workers=0)
    batch: BatchPlan = plan_of(7, 2, 2)
    times = (1, 4)  # in training; in the validation, of which one rank has fewer batches
    works: list[Any] = [
        (timm_fit, (str(tmp_path / str(at)), settings, batch, at, None)) for at in times
    ]
    by_case = zip(*found_by_ranks(2, in_turn, works), strict=True)
    for at, found in zip(times, by_case, strict=True):
        assert {row[0] for row in found} == {Outcome.YIELDED}
        assert {row[4] for row in found} == {at + 1}
        assert not found[0][2]


def test_a_split_model_learns_what_a_whole_one_does_and_goes_on_whole(
    pictures: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        model=VIT, data=str(pictures), imgsz=32, epochs=2, workers=0,
        options={"grad_clip": 1.0, "ema_decay": 0.9},
    )  # fmt: skip
    alone = RecordingLink(tmp_path / "one" / "checkpoints")
    one = plan_of(8, 1, 8)
    TimmTrainer().fit(attempt_of(settings, tmp_path / "one", batch=one), CpuDevice(), alone)
    wanted = values(alone.reported)
    works: list[Any] = []
    for place in ("card", "host"):
        split = replace(settings, options={**settings.options, "ddp_shard": place})
        works.append((timm_fit, (str(tmp_path / place), split, plan_of(8, 2, 2), None, None)))
    resumed = (str(tmp_path / "card"), works[0][1][1], plan_of(8, 2, 4), None, alone.saved[0])
    works.append((timm_fit, resumed))
    by_case = list(zip(*found_by_ranks(2, in_turn, works), strict=True))
    for found in by_case[:2]:
        (_, _, reported, saved, _), (_, _, silent, _, _) = found
        assert not silent
        assert values(reported) == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in wanted]
        # A whole model goes on from the file of the split one ...
        again = RecordingLink(tmp_path / "again" / "checkpoints", resume_from=saved[0])
        with suppress(StoreError):  # ... up to the end, where the best epoch's file lies elsewhere
            task = attempt_of(settings, tmp_path / "again", batch=one)
            TimmTrainer().fit(task, CpuDevice(), again)
        assert values(again.reported)[0] == pytest.approx(wanted[1], rel=1e-4, abs=1e-6)
    # ... and the split one from the file of the whole one.
    assert values(by_case[2][0][2])[0] == pytest.approx(wanted[1], rel=1e-4, abs=1e-6)


def test_ranks_that_share_a_model_out_train_where_no_card_holds_it(
    pictures: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        model="timm/resnet18",
        data=str(pictures),
        imgsz=32,
        epochs=2,
        workers=0,
        options={"ddp_shard": "card"},
    )
    # 11 million weights, as many gradients and averages, and twice as many numbers of AdamW.
    whole = 5 * 4 * 11_180_000
    budget = 200 << 20
    assert whole > budget
    work: Any = (emulated_fit, (str(tmp_path), settings, plan_of(4, 2, 2), budget))
    found = [of_rank[0] for of_rank in found_by_ranks(2, in_turn, [work])]
    assert [outcome for outcome, _, _ in found] == ["finished"] * 2
    assert [num_saved for _, _, num_saved in found] == [2, 0]
    assert all(whole // 2 < peak <= budget for _, peak, _ in found)
