"""BatchNorm over the ranks of a gang computes what it would on one rank, and never waits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from jobs.rank_processes import found_by_ranks
from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import ConfigError, TrainingError
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.step_state import StepState
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import Cause, Outcome, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of, values
from tests.trainer.gang_work import plan_of, timm_fit
from tests.trainer.gangs import in_turn
from tests.trainer.norm_sync_work import ON, Stepped, stepped
from tests.trainer.picture_folders import make_pictures
from tests.trainer.test_gang_timm import difference

RESNET = "timm/test_resnet.r160_in1k"  # BatchNorm with an activation behind it
PLAIN = timm.create_model(RESNET.removeprefix("timm/"), num_classes=5)
INTERLEAVED = (0, 2, 4, 1, 3)  # of ranks with 2, 2 and 1 samples: the first of each, then the rest


def check(found: list[Stepped], wanted: Stepped) -> None:
    """Gradients and statistics of one rank, to 1e-5 and on all ranks the same bits."""
    whole, kept, loss, keys, _ = wanted
    assert sum(row[2] for row in found) == pytest.approx(loss, rel=1e-5)
    for mine, statistics, _, names, _ in found:
        assert difference(whole, mine) < 1e-5
        assert difference(kept, statistics) < 1e-5
        assert names == keys == list(PLAIN.state_dict())
        assert all(np.array_equal(statistics[n], found[0][1][n]) for n in statistics)
        assert all(np.array_equal(mine[n], found[0][0][n]) for n in mine)


def test_two_ranks_have_gradients_and_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    """Seven samples, 4 + 3; and pieces of which BatchNorm sees those of both ranks."""
    folder = str(tmp_path)
    works: list[Any] = [
        (stepped, (RESNET, plan_of(7, 2, size), ON, folder, order))
        for size, order in ((4, None), (2, None))
    ]
    whole, cut = zip(*found_by_ranks(2, in_turn, works), strict=True)
    check(list(whole), stepped(0, RESNET, plan_of(7, 1, 7), {}, folder))
    check(list(cut), stepped(0, RESNET, plan_of(7, 1, 4), {}, folder, (0, 1, 4, 5, 2, 3, 6)))


def test_a_rank_takes_part_in_pieces_for_which_it_has_no_sample(tmp_path: Path) -> None:
    """Five samples over three ranks, one at a time: the last rank has one, the others two."""
    folder = str(tmp_path)
    checkpointed = {**ON, "grad_checkpointing": True}
    works: list[Any] = [
        (stepped, (RESNET, plan_of(5, 3, 2), ON, folder)),
        (stepped, (RESNET, plan_of(5, 3, 1), ON, folder)),
        (stepped, (RESNET, plan_of(5, 3, 1), checkpointed, folder)),
    ]
    whole, cut, again = zip(*found_by_ranks(3, in_turn, works), strict=True)
    check(list(whole), stepped(0, RESNET, plan_of(5, 1, 5), {}, folder))
    in_pieces = stepped(0, RESNET, plan_of(5, 1, 3), {}, folder, INTERLEAVED)
    check(list(cut), in_pieces)
    check(list(again), in_pieces)


def test_a_rank_out_of_memory_lets_the_others_go_and_all_repeat_the_step(tmp_path: Path) -> None:
    folder = str(tmp_path)
    works: list[Any] = [
        (stepped, (RESNET, plan_of(6, 3, 2), ON, folder, None, fails))
        for fails in ("forward", "backward")
    ]
    wanted = stepped(0, RESNET, plan_of(6, 1, 3), {}, folder, (0, 2, 4, 1, 3, 5))
    for found in zip(*found_by_ranks(3, in_turn, works), strict=True):
        check(list(found), wanted)
        assert {tuple(cuts) for *_, cuts in found[:1]} == {((2, 1),)}


def test_where_ranks_cannot_be_told_the_attempt_ends_at_once(tmp_path: Path) -> None:
    def nobody_answers(most: int, least: int) -> tuple[int, int]:
        raise AssertionError("the others wait in the step")

    def work(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    settings = TrainSettings(model="m", data="none", imgsz=32, epochs=1)
    task = attempt_of(settings, tmp_path, batch=plan_of(8, 2, 4))
    link = RecordingLink(tmp_path / "c")
    governor = Governor(task, CpuDevice(), link, MemoryOptions(), agree=nobody_answers)
    governor.can_repeat = False
    state = StepState(torch.nn.Linear(1, 1), torch.device("cpu"))
    with pytest.raises(TrainingError, match="micro-batch 4") as caught:
        governor.step(work, state)
    assert caught.value.cause is Cause.OUT_OF_MEMORY


def test_a_gang_trains_like_one_rank_and_leaves_plain_files(tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", each=8)
    make_pictures(tmp_path / "val", each=3, seed=1)
    settings = TrainSettings(
        model=RESNET, data=str(tmp_path), imgsz=64, epochs=2, workers=0, options={"ema_decay": 0.9}
    )
    alone = RecordingLink(tmp_path / "one" / "checkpoints")
    one = plan_of(6, 1, 6)
    TimmTrainer().fit(attempt_of(settings, tmp_path / "one", batch=one), CpuDevice(), alone)
    synced = replace(settings, options={**settings.options, **ON})
    batch = plan_of(6, 2, 3)
    split = replace(synced, options={**synced.options, "ddp_shard": "card"})
    works: list[Any] = [
        (timm_fit, (str(tmp_path / name), settings, batch, None, None))
        for name, settings in (("two", synced), ("split", split))
    ]
    found, parts = zip(*found_by_ranks(2, in_turn, works), strict=True)
    for rows in (found, parts):
        assert {row[0] for row in rows} == {Outcome.FINISHED}
        for mine, wanted in zip(values(rows[0][2]), values(alone.reported), strict=True):
            assert mine == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    kept = torch.load(tmp_path / "two" / "weights" / "best.pt", weights_only=True)
    plain = timm.create_model(RESNET.removeprefix("timm/"), num_classes=3)
    plain.load_state_dict(kept["state_dict"])
    # One rank goes on from what the two have saved.
    again = RecordingLink(tmp_path / "two" / "checkpoints", resume_from=found[0][3][0])
    TimmTrainer().fit(attempt_of(settings, tmp_path / "two", batch=one), CpuDevice(), again)
    assert values(again.reported)[0] == pytest.approx(values(alone.reported)[1], rel=1e-3, abs=1e-5)


def test_the_key_is_a_switch() -> None:
    assert ddp_options({"ddp_sync_bn": True})[0].sync_bn
    assert not ddp_options({})[0].sync_bn
    with pytest.raises(ConfigError, match="ddp_sync_bn must be true or false, not 'often'"):
        ddp_options({"ddp_sync_bn": "often"})
