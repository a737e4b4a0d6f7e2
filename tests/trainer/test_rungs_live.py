"""A card on which not even one sample fits: the run gives something up and trains the same."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jobs.recovery_runs import Done, Fill, Work, run
from jobs.recovery_work import class_folders, detection_set
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import TrainingError
from orchestrator.messages import GivenUp
from orchestrator.plan.ladder import Rung
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.offers import offer_size
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.rungs import IN_UPDATE, Offer, Rungs
from orchestrator.trainer.step_state import StepState
from orchestrator.types import BatchPlan, Cause, TrainSettings
from tests.contracts.trainer import RecordingLink
from tests.trainer.test_governor import CARD, MIB, OPTIONS, SETTINGS, batch_of, task_of

BATCH = 4
LIGHT: dict[str, Any] = {"grad_checkpointing": True, "optimizer_state": "host"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)  # ultralytics sets its own number for a CPU


@pytest.fixture(scope="module", params=["timm", "yolo"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("set")
    shared: Any = {"epochs": 2, "workers": 0, "amp": "fp32", "optimizer": "AdamW"}
    if request.param == "timm":
        data = class_folders(folder, train=8, val=4)
        settings = TrainSettings(model="timm/test_vit", data=str(data), imgsz=160, **shared)
    else:
        pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
        boxes, model = detection_set(folder, train=8, val=4)
        settings = TrainSettings(
            model=str(model), data=str(boxes), imgsz=192, options={"close_mosaic": 0}, **shared
        )
    plan = BatchPlan(effective_batch=BATCH, world_size=1, micro_batch=BATCH)
    return Work(trainer=request.param, settings=settings, batch=plan, num_steps=2)


def with_options(work: Work, **options: Any) -> Work:
    settings = replace(work.settings, options={**work.settings.options, **options})
    return replace(work, settings=settings)


@pytest.fixture(scope="module")
def single(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run in pieces of one sample, on a card with room."""
    alone = replace(work, batch=replace(work.batch, micro_batch=1))
    return run(tmp_path_factory.mktemp("single"), alone)


@pytest.fixture(scope="module")
def fill(work: Work, single: Done, tmp_path_factory: pytest.TempPathFactory) -> Fill:
    """Room for one sample with both rungs, and not without."""
    alone = replace(work, batch=replace(work.batch, micro_batch=1))
    light = run(tmp_path_factory.mktemp("light"), with_options(alone, **LIGHT))
    needed, least = single.load[1, 2], max(light.load.values())
    assert least < 0.9 * needed
    return Fill(epoch=1, step=1, room=(least + needed) // 2, lasts=99)


def test_a_run_finishes_where_one_sample_does_not_fit(
    work: Work, single: Done, fill: Fill, tmp_path: Path
) -> None:
    refused = run(tmp_path / "refused", with_options(work, memory_ladder="cut"), fill)
    assert "out of memory" in refused.error
    assert not refused.reported
    done = run(tmp_path / "run", work, fill)
    assert not done.error
    assert not done.wrong
    assert done.samples == single.samples  # each once, in the same steps
    assert done.sizes == single.sizes == [BATCH] * 4
    assert done.num_updates == single.num_updates == 4
    given = [recut.given_up for recut in done.recuts if recut.given_up is not None]
    assert {one.rung for one in given} <= {"checkpointing", "optimizer_host"}
    assert given
    assert all(one.is_live for one in given)
    assert all("memory" in r.why or "update needs" in r.why for r in done.recuts if r.given_up)
    assert done.reported[-1].rungs == tuple(str(one) for one in given)
    assert done.reported[-1].peak_bytes <= fill.room
    # The same numbers as where there was room: layers computed twice, state that travelled.
    # ultralytics averages validation losses over its batches, which are larger in this run.
    same = [
        name for name in done.reported[-1].metrics if work.trainer == "timm" or "val/" not in name
    ]
    found, wanted = done.reported[-1].metrics, single.reported[-1].metrics
    assert len(same) >= 4
    for name in same:
        assert found[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-4), name


def test_the_order_and_what_is_allowed_are_the_configs(
    work: Work, fill: Fill, tmp_path: Path
) -> None:
    swapped = with_options(work, memory_ladder="optimizer_host, checkpointing")
    done = run(tmp_path, swapped, replace(fill, step=2))
    given = [recut.given_up.rung for recut in done.recuts if recut.given_up is not None]
    assert not done.error
    assert given[0] == "optimizer_host"
    assert done.reported[-1].rungs[0] == "optimizer_host=host"


def numbered(*names: Rung, log: list[str]) -> Rungs:
    rungs = Rungs((Rung.CUT, *names, Rung.MODEL))
    for name in names:
        rungs.offer(name, Offer(setting=lambda: "on", take=partial(log.append, name.value)))
    return rungs


def test_rungs_are_taken_once_each_in_their_order_and_only_where_they_help() -> None:
    log: list[str] = []
    rungs = numbered(Rung.AMP, Rung.OPTIMIZER_HOST, Rung.CHECKPOINTING, log=log)
    first = rungs.next(IN_UPDATE)
    assert first == GivenUp(rung="optimizer_host", setting="on")
    assert [str(rungs.next()), str(rungs.next()), rungs.next()] == [
        "amp=on",
        "checkpointing=on",
        None,
    ]
    assert log == ["optimizer_host", "amp", "checkpointing"]
    assert rungs.taken == ("optimizer_host=on", "amp=on", "checkpointing=on")


def test_a_rung_that_wins_nothing_now_is_kept_for_later() -> None:
    settings: list[str | None] = [None, "host"]
    rungs = Rungs((Rung.OPTIMIZER_HOST,), taken=("optimizer_host=8bit", "amp=bf16"))
    rungs.offer(Rung.OPTIMIZER_HOST, Offer(setting=lambda: settings.pop(0)))
    assert rungs.next() is None
    assert rungs.next() == GivenUp(rung="optimizer_host", setting="host", is_live=False)
    assert rungs.taken == ("amp=bf16", "optimizer_host=host")


def test_a_rank_takes_no_rung_that_another_does_not_have() -> None:
    asked: list[bool] = []

    def everybody(is_so: bool) -> bool:
        asked.append(is_so)
        return is_so and len(asked) > 1

    log: list[str] = []
    rungs = Rungs((Rung.AMP, Rung.CHECKPOINTING), everybody=everybody)
    for name in (Rung.AMP, Rung.CHECKPOINTING):
        rungs.offer(name, Offer(setting=lambda: "on", take=partial(log.append, name.value)))
    assert str(rungs.next()) == "checkpointing=on"
    assert log == [Rung.CHECKPOINTING]
    assert asked == [True, True]


def failing(governor: Governor) -> TrainingError:
    def work(size: int) -> None:
        raise torch.OutOfMemoryError(f"RTX 2060 (emulated) out of memory: {size}")

    with pytest.raises(TrainingError) as caught:
        governor.step(work, StepState(nn.Linear(1, 1), torch.device("cpu")))
    return caught.value


def test_what_a_running_attempt_cannot_change_is_named_for_the_next(tmp_path: Path) -> None:
    link = RecordingLink(tmp_path / "c")
    governor = Governor(task_of(tmp_path), EmulatedDevice(CARD, MIB), link, MemoryOptions())
    governor.rungs.offer(Rung.AMP, Offer(setting=lambda: "fp16"))
    error = failing(governor)
    assert error.cause is Cause.OUT_OF_MEMORY
    assert link.recuts[-1].given_up == GivenUp(rung="amp", setting="fp16", is_live=False)
    assert (link.recuts[-1].old, link.recuts[-1].new) == (1, 1)


def test_smaller_pictures_only_where_the_config_allows_them(tmp_path: Path) -> None:
    for least, wanted in ((None, None), (320, "288"), (256, "288")):
        rungs = Rungs((Rung.IMGSZ,))
        offer_size(rungs, 320, MemoryOptions(least_imgsz=least))
        given = rungs.next()
        assert (given.setting if given else None) == (wanted if least != 320 else None)


def test_memory_that_ran_out_beside_a_step_names_a_rung_at_micro_batch_1_alone(
    tmp_path: Path,
) -> None:
    for micro_batch, named in ((8, 0), (1, 1)):
        link = RecordingLink(tmp_path / "c")
        task, device = task_of(tmp_path, micro_batch), EmulatedDevice(CARD, MIB)
        governor = Governor(task, device, link, MemoryOptions())
        governor.rungs.offer(Rung.AMP, Offer(setting=lambda: "fp16", take=lambda: None))
        assert governor.gave_up("set-up").cause is Cause.OUT_OF_MEMORY
        assert [r.given_up.is_live for r in link.recuts if r.given_up] == [False] * named


def test_where_one_sample_is_too_few_the_piece_before_is_kept_and_a_rung_is_taken(
    tmp_path: Path,
) -> None:
    link, tried = RecordingLink(tmp_path / "c"), list[tuple[int, bool]]()
    governor = Governor(task_of(tmp_path), EmulatedDevice(CARD, MIB), link, MemoryOptions())
    is_light: list[str] = []
    offer = Offer(setting=lambda: "on", take=lambda: is_light.append("now"))
    governor.rungs.offer(Rung.CHECKPOINTING, offer)

    def work(size: int) -> int:
        tried.append((size, bool(is_light)))
        if size == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        if not is_light:
            raise torch.OutOfMemoryError("RTX 2060 (emulated) out of memory")
        return size

    assert governor.step(work, StepState(nn.Linear(1, 1), torch.device("cpu"))) == 2
    assert tried == [(8, False), (4, False), (2, False), (1, False), (2, True)]
    assert [(r.old, r.new) for r in link.recuts] == [(8, 4), (4, 2), (2, 1), (1, 2), (2, 2)]


def learner() -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 3))
    return Learner(
        model, SETTINGS, OPTIONS, device=torch.device("cpu"), micro_batch=2, steps_per_epoch=4
    )


def test_half_precision_from_the_next_step_on_follows_the_same_path() -> None:
    plain, halved = learner(), learner()
    losses: list[tuple[float, float]] = []
    for number in range(12):
        if number == 3:
            halved.halve(torch.bfloat16)
        losses.append((plain.learn(batch_of(number)).item(), halved.learn(batch_of(number)).item()))
    assert losses[:3] == [(loss, loss) for loss, _ in losses[:3]]
    assert losses[3][0] != losses[3][1]
    for one, other in losses:
        assert other == pytest.approx(one, rel=0.05)
    assert halved.amp == "bfloat16"


def test_a_checkpoint_without_a_loss_scale_loads_where_there_is_one() -> None:
    plain, halved = learner(), learner()
    plain.learn(batch_of(0))
    halved.halve(torch.float16)
    halved.restore(plain.state())
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, halved.model.state_dict()[name])
