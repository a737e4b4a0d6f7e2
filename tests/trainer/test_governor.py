"""Running out of memory is an event: the same batch runs again, and nothing else changes."""

import json
import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.cluster.address import free_port
from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import ConfigError, TrainingError
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.loading import Batch
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_memory import MemoryOptions, memory_options
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.step_state import StepState
from orchestrator.types import BatchPlan, Card, Cause, DeviceMemory, TrainSettings, TrainTask
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.rank_work import rank_work

MIB = 1 << 20
CARD = Card(index=0, name="RTX 2060", memory_bytes=1024 * MIB, is_emulated=True)
SETTINGS = TrainSettings(model="timm/test_resnet", data="none", imgsz=32, epochs=1, amp="fp32")
OPTIONS = TimmOptions(ema_decay=0.9, grad_clip=1.0)
BATCH = 8


def task_of(folder: Path, micro_batch: int = BATCH, *, ranks: int = 1, rank: int = 0) -> TrainTask:
    plan = BatchPlan(effective_batch=BATCH * ranks, world_size=ranks, micro_batch=micro_batch)
    return replace(attempt_of(SETTINGS, folder, batch=plan), rank=rank)


def small_model() -> nn.Module:
    """With running statistics, and chance inside."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


class Bench:
    """A learner on an emulated card, with a governor."""

    def __init__(
        self, folder: Path, options: MemoryOptions | None = None, share: int = CARD.memory_bytes
    ) -> None:
        self.device = EmulatedDevice(CARD, share)
        self.link = RecordingLink(folder / "checkpoints")
        self.task = task_of(folder)
        options = options or MemoryOptions()
        self.governor = Governor(self.task, self.device, self.link, options)
        torch.manual_seed(0)
        self.learner = Learner(
            small_model(),
            SETTINGS,
            OPTIONS,
            device=torch.device("cpu"),
            micro_batch=BATCH,
            steps_per_epoch=4,
            governor=self.governor,
            host=HostMemory(entered=self.device.host),
        )
        torch.manual_seed(1)
        self.governor.epoch_begins(1)

    def learn(self, batch: Batch, room: int | None = None) -> float:
        """One step, with `room` bytes for this process from now on, if given."""
        if room is not None:
            self.leave(room)
        with self.device.session():
            return self.learner.learn(batch).item()

    def leave(self, room: int) -> None:
        self.device.set_foreign(CARD.memory_bytes - room)

    def peak(self, batch: Batch) -> tuple[int, int]:
        """Bytes alive before and at most during a step at the present size."""
        self.learn(batch)
        self.device.reset_peak()
        before = self.device.live_bytes()
        self.learn(batch)
        return before, self.device.peak_bytes()


def batch_of(number: int, size: int = BATCH) -> Batch:
    chance = torch.Generator().manual_seed(number)
    images = torch.randn(size, 3, 32, 32, generator=chance)
    return images, torch.randint(0, 3, (size,), generator=chance)


def everything(bench: Bench) -> dict[str, Any]:
    return {"learner": bench.learner.state(), "chance": torch.get_rng_state()}


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("size", [BATCH, 5], ids=["whole", "ragged"])
def test_a_step_that_ran_out_equals_the_step_that_was_cut_at_once(
    tmp_path: Path, size: int
) -> None:
    first = Bench(tmp_path / "first")
    before, peak = first.peak(batch_of(0, size))
    loss = first.learn(batch_of(3, size), room=before + (peak - before) * 3 // 4)
    cut = first.governor.micro_batch
    assert cut < size
    found = everything(first)
    second = Bench(tmp_path / "second")
    second.peak(batch_of(0, size))
    second.governor._training.become(cut)
    assert second.learn(batch_of(3, size)) == loss
    assert_same(found, everything(second))
    assert [(r.old, r.new) for r in first.link.recuts][-1][1] == cut
    assert "MiB" in first.link.recuts[0].why
    assert first.governor.task.batch.effective_batch == BATCH


def test_nothing_of_the_failed_step_stays_alive(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before, peak = bench.peak(batch_of(0))
    bench.learn(batch_of(1), room=before + (peak - before) // 2)
    bench.device.set_foreign(0)
    bench.learn(batch_of(2))
    assert bench.device.live_bytes() <= before


def test_a_picture_of_the_memory_is_kept_once_an_attempt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before, peak = bench.peak(batch_of(0))
    room = before + (peak - before) // 2
    bench.learn(batch_of(1), room=room)
    file = Path(bench.task.folder) / "out-of-memory.json"
    content = json.loads(file.read_text())
    assert content["live"][0]["num_bytes"] >= content["live"][-1]["num_bytes"] > 0
    assert sum(row["num_bytes"] for row in content["live"]) <= room
    file.unlink()
    bench.learn(batch_of(1), room=before + (peak - before) // 4)
    assert len(bench.link.recuts) > 1
    assert not file.exists()


def test_a_sample_that_does_not_fit_ends_the_attempt_with_what_was_learnt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before, _ = bench.peak(batch_of(0))
    weights = {k: v.clone() for k, v in bench.learner.model.state_dict().items()}
    with pytest.raises(TrainingError, match="micro-batch 1") as caught:
        bench.learn(batch_of(1), room=before + 1000)
    assert caught.value.cause is Cause.OUT_OF_MEMORY
    assert caught.value.__cause__ is None
    assert "at most 1" in caught.value.why[1]
    assert_same(weights, dict(bench.learner.model.state_dict()))


def test_an_update_without_room_changes_no_weight(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryOptions(ladder=()))
    weights = {k: v.clone() for k, v in bench.learner.model.state_dict().items()}
    bench.learner._update_room._state = 2 * CARD.memory_bytes
    with pytest.raises(TrainingError, match="out of memory") as caught:
        bench.learn(batch_of(0))
    assert "update" in caught.value.why[0]
    names = dict(bench.learner.model.named_parameters())
    assert_same(weights, {**bench.learner.model.state_dict(), **_statistics(weights, names)})


def _statistics(weights: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in weights.items() if key not in names}


def test_other_errors_pass_and_the_cpu_is_not_limited(tmp_path: Path) -> None:
    governor = Governor(
        task_of(tmp_path), CpuDevice(), RecordingLink(tmp_path / "c"), MemoryOptions()
    )
    state = StepState(nn.BatchNorm1d(2), torch.device("cpu"))

    def broken(size: int) -> None:
        raise KeyError(size)

    with pytest.raises(KeyError):
        governor.step(broken, state)
    assert governor.has_room(1 << 60)
    assert governor.step(lambda size: size, state) == BATCH


def test_chance_and_running_statistics_are_put_back() -> None:
    norm = nn.BatchNorm1d(4)
    state = StepState(norm, torch.device("cpu"))
    state.keep()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    drawn = torch.rand(3), random.random()
    norm(torch.randn(5, 4)).sum().backward()
    state.restore()
    assert_same(before, dict(norm.state_dict()))
    assert norm.weight.grad is None
    assert torch.equal(torch.rand(3), drawn[0])
    assert random.random() == drawn[1]


def test_validation_that_ran_out_counts_every_sample_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    batches = [batch_of(n, size) for n, size in enumerate((16, 16, 7))]
    with bench.device.session():
        whole = bench.learner.evaluate(iter(batches))
        bench.device.reset_peak()
        before = bench.device.live_bytes()
        bench.learner.evaluate(iter(batches))
        bench.leave(before + (bench.device.peak_bytes() - before) // 2)
        cut = bench.learner.evaluate(iter(batches))
    assert cut == pytest.approx(whole, rel=1e-6)
    assert [r.in_validation for r in bench.link.recuts] == [True] * len(bench.link.recuts)
    assert bench.link.recuts[0].old == 16
    assert bench.governor.micro_batch == BATCH


def test_the_micro_batch_grows_again_but_never_to_what_ran_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryOptions(target=1.0))
    bench.governor._training.grow_after = 2
    before, peak = bench.peak(batch_of(0))
    slope = (peak - before) // BATCH
    bench.learn(batch_of(1), room=before + 7 * slope)
    for number in range(20):
        bench.learn(batch_of(number))
    assert bench.governor.micro_batch < BATCH
    bench.device.set_foreign(0)
    for number in range(20):
        bench.learn(batch_of(number))
    assert bench.governor.micro_batch == BATCH
    assert bench.link.recuts[-1].new == BATCH
    assert "room" in bench.link.recuts[-1].why


@pytest.mark.parametrize(("target", "grows"), [(0.5, False), (1.0, True)])
def test_it_grows_within_the_share_of_the_run_however_much_of_the_card_is_free(
    tmp_path: Path, target: float, grows: bool
) -> None:
    _, peak = Bench(tmp_path / "alone").peak(batch_of(0))
    bench = Bench(tmp_path, MemoryOptions(target=target), share=peak + peak // 8)
    assert bench.device.memory().free_bytes >= CARD.memory_bytes // 2
    bench.governor._training.grow_after = 2
    bench.governor._training.become(BATCH // 2)
    for number in range(20):
        bench.learn(batch_of(number))
    assert (bench.governor.micro_batch == BATCH) == grows
    assert not grows or not any(recut.new < recut.old for recut in bench.link.recuts)


class Spilling(EmulatedDevice):
    """Poses as a real card whose driver moves what does not fit to the host."""

    @property
    def torch_device(self) -> str:
        return "cuda:0"

    def memory(self) -> DeviceMemory:
        return DeviceMemory(total_bytes=CARD.memory_bytes, used_bytes=CARD.memory_bytes - MIB)


@pytest.mark.parametrize(("slow", "cuts"), [(6.0, 1), (3.0, 0)])
def test_a_full_card_whose_steps_collapse_is_treated_as_out_of_memory(
    tmp_path: Path, slow: float, cuts: int
) -> None:
    moments = [float(n) for n in range(24)]
    moments += [moments[-1] + slow * n for n in range(1, 6)]
    device = Spilling(CARD, CARD.memory_bytes)
    link = RecordingLink(tmp_path / "c")
    governor = Governor(
        task_of(tmp_path), device, link, MemoryOptions(), clock=iter(moments).__next__
    )
    state = StepState(nn.Linear(1, 1), torch.device("cpu"))
    governor.epoch_begins(1)
    sizes = [governor.step(lambda size: size, state) for _ in moments]
    assert [(r.old, r.new) for r in link.recuts] == [(8, 4)] * cuts
    assert sizes[:26] == [8] * 26
    assert sizes[-1] == (4 if cuts else 8)
    assert not cuts or "full" in link.recuts[0].why


def test_told_not_to_adapt_it_is_cut_and_stays_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryOptions(adapt=False))
    bench.governor._training.grow_after = 1
    before, peak = bench.peak(batch_of(0))
    bench.learn(batch_of(1), room=before + (peak - before) // 2)
    cut = bench.governor.micro_batch
    bench.device.set_foreign(0)
    for number in range(5):
        bench.learn(batch_of(number))
    assert bench.governor.micro_batch == cut < BATCH


def test_an_epoch_tells_its_peaks_and_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before, peak = bench.peak(batch_of(0))
    bench.learn(batch_of(1), room=before + (peak - before) // 2)
    told = bench.governor.epoch_ends()
    assert told.micro_batch == bench.governor.micro_batch
    assert told.num_recuts == len(bench.link.recuts) > 0
    assert before < told.peak_bytes <= before + (peak - before) // 2
    assert told.peak_reserved_bytes == told.peak_bytes
    bench.governor.epoch_begins(2)
    bench.learn(batch_of(1))
    assert bench.governor.epoch_ends().num_recuts == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"memory_adapt": 1}, "E1102"),
        ({"memory_target": "high"}, "E1102"),
        ({"memory_target": True}, "E1102"),
        ({"memory_target": 0.01}, "E1103"),
        ({"grad_checkpointing": "yes"}, "E1102"),
        ({"optimizer_state": "disk"}, "E1103"),
        ({"memory_ladder": 3}, "E1102"),
        ({"memory_ladder": "amp, sleep"}, "E1103"),
        ({"memory_ladder": "amp, amp"}, "E1103"),
        ({"memory_least_imgsz": True}, "E1102"),
        ({"memory_least_imgsz": -1}, "E1103"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        memory_options(options)
    assert caught.value.code == code


def test_options_about_memory_are_taken_out() -> None:
    found, rest = memory_options({"memory_adapt": False, "memory_target": 1, "mosaic": 0.5})
    assert found == MemoryOptions(adapt=False, target=1.0)
    assert rest == {"mosaic": 0.5}


def test_a_leak_is_told_in_the_log_and_in_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = EmulatedDevice(CARD, CARD.memory_bytes)
    governor = Governor(task_of(tmp_path), device, RecordingLink(tmp_path / "c"), MemoryOptions())
    kept, told = [], []
    with device.session():
        for epoch in range(1, 7):
            governor.epoch_begins(epoch)
            kept.append(torch.zeros(40 * MIB, dtype=torch.uint8))
            told.append(governor.epoch_ends().leak_bytes)
    assert told == [0, 0, 0, 0, 40 * MIB, 40 * MIB]
    assert "40 MiB more after each epoch" in caplog.text


def test_all_ranks_cut_alike_when_one_runs_out(tmp_path: Path) -> None:
    port = free_port()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [
        context.Process(target=rank_work, args=(rank, str(tmp_path), port, answers))
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    assert [row[:5] for row in found] == [
        (0, 8, 2, False, "OUT_OF_MEMORY"),
        (1, 8, 2, False, "OUT_OF_MEMORY"),
    ]
    assert found[0][5] == [(8, 4), (4, 2), (2, 1)]  # rank 0 tells
    assert found[1][5] == []
