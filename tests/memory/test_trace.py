"""Traces of small models: parity with autograd's own engine, linearity, parts, errors."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from orchestrator.device.live import block_bytes
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.memory.answers import Answers
from orchestrator.memory.events import PARTS, Birth, StepTrace
from orchestrator.memory.fake import FakeCard, Memory
from orchestrator.memory.split import Units
from orchestrator.memory.stage import FakeStage, Stage
from orchestrator.memory.trace import trace_pair, trace_step
from orchestrator.memory.tracker import Tracker
from orchestrator.plan.workload import OptimizerState, StepKind, Workload

TINY = Workload(trainer="timm", model="test_efficientnet", imgsz=64, num_classes=10)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def peak(trace: StepTrace, part: str | None = None) -> int:
    """Most live bytes; with a part, that part's bytes at the peak of all."""
    living: dict[int, Birth] = {}
    live = most = share = 0
    for event in trace.events:
        if isinstance(event, Birth):
            living[event.storage] = event
            live += block_bytes(event.num_bytes)
            if live > most:
                most = live
                share = sum(block_bytes(b.num_bytes) for b in living.values() if b.part == part)
        else:
            live -= block_bytes(living.pop(event).num_bytes)
    return most if part is None else share


def alive(trace: StepTrace) -> list[Birth]:
    born = {event.storage: event for event in trace.events if isinstance(event, Birth)}
    for event in trace.events:
        if isinstance(event, int):
            del born[event]
    return list(born.values())


class Residual(nn.Module):
    """Shared gradients, in-place operators, a chunked tensor with an unused piece."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.one(x), inplace=True)
        x = x + self.norm(self.two(x)) + x
        left, _ = x.chunk(2, 1)
        return self.head(left.mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A transformer's block, with a parameter that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(len(x), -1, 48))
        return self.head(self.block(self.block(x)).mean(1))  # type: ignore[no-any-return]


class Checkpointed(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.one(x))
        for _ in range(3):
            x = checkpoint(self._again, x, use_reentrant=False)
        return self.head(x[:, :8].mean((2, 3)))  # type: ignore[no-any-return]

    def _again(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.two(x)))


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        loss = functional.cross_entropy(
            model(torch.zeros(4, 3, 32, 32)), torch.zeros(4, dtype=torch.int64)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        optimizer.step()
        optimizer.zero_grad()


def walked(make: Callable[[], nn.Module]) -> StepTrace:
    """Two steps of a module on fake tensors of the CPU, with our engine."""
    model = make()
    stage = FakeStage(CPU, Answers(), Memory(), has_flash=True)
    with stage.entered():
        stage.place(model, "weights", is_channels_last=False)
        step_of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return stage.finish(4)


def run_by_torch(make: Callable[[], nn.Module]) -> StepTrace:
    """The same steps on the same fakes, with autograd's own engine."""
    model, tracker = make(), Tracker()
    stage = FakeStage(CPU, Answers(), Memory(), has_flash=True)
    card = FakeCard(tracker, Answers(), CPU, Memory())
    stage.tracker, stage.card = tracker, card
    with card.entered():
        stage.place(model, "weights", is_channels_last=False)
        step_of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return tracker.finish(4)


@pytest.mark.parametrize("make", [Residual, Attention, Checkpointed])
def test_the_walk_needs_what_autograds_engine_needs(make: Callable[[], nn.Module]) -> None:
    ours, theirs = walked(make), run_by_torch(make)

    # Autograd adds fakes up out of place, as it does with all subclasses of tensors; real tensors
    # and ours are added up in place.
    assert peak(ours) == pytest.approx(peak(theirs), rel=0.005)
    assert peak(ours) <= peak(theirs)
    assert {b.num_bytes for b in alive(ours)} == {b.num_bytes for b in alive(theirs)}


def test_saved_tensors_are_freed_although_the_output_is_held() -> None:
    model = Residual()
    stage = FakeStage(CPU, Answers(), Memory(), has_flash=True)
    with stage.entered():
        stage.place(model, "weights", is_channels_last=False)
        stage.begin(1)
        output = model(torch.zeros(4, 3, 32, 32))
        output.sum().backward()
        for parameter in model.parameters():
            parameter.grad = None
    left = [b for b in alive(stage.finish(4)) if b.part not in ("weights", "statistics")]
    assert [b.num_bytes for b in left] == [output.numel() * 4]


def test_two_traces_tell_of_a_third_exactly() -> None:
    first, second = trace_pair(TINY)
    third = trace_step(TINY, 16)

    def sizes(trace: StepTrace) -> list[int]:
        return [event.num_bytes for event in trace.events if isinstance(event, Birth)]

    run, rest = 16 - first.batch, second.batch - first.batch
    pairs = zip(sizes(first), sizes(second), strict=True)
    assert [a + (b - a) * run // rest for a, b in pairs] == sizes(third)


@pytest.mark.parametrize("kind", [StepKind.TRAIN, StepKind.VALIDATE])
def test_a_trace_is_the_same_whatever_was_traced_before(kind: StepKind) -> None:
    workload, memory = replace(TINY, kind=kind, precision="fp32"), Memory()
    alone = trace_pair(workload, memory=Memory())
    assert [trace_pair(workload, memory=memory) for _ in range(2)] == [alone, alone]


def test_views_of_averaged_weights_are_not_born_as_storages() -> None:
    trace = trace_step(replace(TINY, kind=StepKind.VALIDATE, precision="fp32"), 2)
    born = [event for event in trace.events if isinstance(event, Birth)]
    assert any(b.part == "ema" for b in born)
    assert [b for b in born if b.op in ("t", "detach", "view")] == []


def test_every_birth_has_a_part_and_most_have_a_module() -> None:
    trace = trace_step(TINY, 4)
    births = [event for event in trace.events if isinstance(event, Birth)]
    assert {b.part for b in births} <= set(PARTS)
    assert sum(peak(trace, part) for part in PARTS) == peak(trace)
    activations = [b for b in births if b.part == "activations"]
    named = [b for b in activations if b.module]
    assert len(named) > 0.9 * len(activations)
    assert any(b.module.startswith("blocks.") for b in named)


def test_weights_optimizer_and_average_are_what_the_model_says() -> None:
    import timm

    model = timm.create_model(TINY.model, num_classes=10)
    weights = [p.numel() * 4 for p in model.parameters()]
    buffers = [b.numel() * b.element_size() for b in model.buffers()]
    trace = trace_step(TINY, 2)
    by_part = {part: [b for b in alive(trace) if b.part == part] for part in PARTS}
    assert sum(b.num_bytes for b in by_part["weights"]) == sum(weights)
    assert sum(b.num_bytes for b in by_part["statistics"]) == 2 * sum(buffers)  # and a step's copy
    assert sum(b.num_bytes for b in by_part["ema"]) == sum(weights) + sum(buffers)
    scaler = 2 * 4
    assert sum(b.num_bytes for b in by_part["optimizer"]) == 2 * sum(weights) + scaler


def test_marks_ascend_and_name_the_phases_of_both_steps() -> None:
    trace = trace_step(replace(TINY, is_cut=True), 2)
    names = [name for name, _ in trace.marks]
    positions = [position for _, position in trace.marks]
    assert positions == sorted(positions)
    piece = ["forward", "backward"]
    steps = [f"step{n}:{phase}" for n in (1, 2) for phase in (*piece, *piece, "update")]
    assert names == ["build", *steps]


def test_a_cut_step_holds_its_gradients_while_the_next_piece_runs() -> None:
    whole, cut = trace_step(TINY, 8), trace_step(replace(TINY, is_cut=True), 8)
    assert peak(cut) > peak(whole)
    assert peak(cut, "gradients") > peak(whole, "gradients")


def test_autocast_is_active() -> None:
    half, single = (trace_step(replace(TINY, precision=p), 8) for p in ("fp16", "fp32"))
    assert peak(half, "activations") < 0.6 * peak(single, "activations")


def test_checkpointing_keeps_less() -> None:
    plain = replace(TINY, model="test_vit", imgsz=160, num_classes=10)
    kept = trace_step(plain, 8)
    computed_again = trace_step(replace(plain, is_checkpointed=True), 8)
    assert peak(computed_again, "activations") < 0.9 * peak(kept, "activations")


@pytest.mark.parametrize(
    ("state", "low", "high"), [(OptimizerState.EIGHT_BIT, 0.2, 0.6), (OptimizerState.HOST, 0, 0.01)]
)
def test_optimizer_state_that_is_light(state: OptimizerState, low: float, high: float) -> None:
    def held(workload: Workload) -> int:
        return sum(b.num_bytes for b in alive(trace_step(workload, 2)) if b.part == "optimizer")

    assert low <= held(replace(TINY, optimizer_state=state)) / held(TINY) <= high


def test_without_gradients_little_is_kept() -> None:
    train, judge, infer = (
        peak(trace_step(replace(TINY, kind=kind), 8))
        for kind in (StepKind.TRAIN, StepKind.VALIDATE, StepKind.INFER)
    )
    assert infer < judge < train


class Stopping:
    """Steps of a module that cannot be traced."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def build(self, *, is_fake: bool) -> nn.Module:
        del is_fake
        return self._module

    def units(self, built: Any) -> Units:
        raise AssertionError(f"nobody shares {built} out")

    def perform(self, stage: Stage, built: Any, batch: int, steps: int = 2) -> object:
        del steps
        stage.place(built, "weights", is_channels_last=False)
        return built(torch.zeros(batch, 3, 8, device=stage.device))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.cell(x)


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.flatten().bincount()


@pytest.mark.parametrize(("module", "name"), [(Recurrent(), "lstm"), (Asking(), "bincount")])
def test_an_operator_that_cannot_be_traced_is_named(module: nn.Module, name: str) -> None:
    with pytest.raises(OrchestratorError, match="cannot be predicted") as caught:
        trace_step(TINY, 2, steps=Stopping(module))
    assert caught.value.code == "E2130"
    assert name in " ".join(caught.value.why)


class Broken(Stopping):
    def build(self, *, is_fake: bool) -> nn.Module:
        raise KeyError("layer9")


def test_a_model_that_cannot_be_made_ends_its_own_prediction_alone() -> None:
    with pytest.raises(OrchestratorError, match="cannot be made") as caught:
        trace_step(TINY, 2, steps=Broken(nn.Identity()))
    assert caught.value.code == "E2130"
    assert "KeyError: 'layer9'" in caught.value.why


def test_a_model_that_does_not_exist_is_an_error_of_the_config() -> None:
    with pytest.raises(ConfigError, match="no model"):
        trace_step(replace(TINY, model="nonesuch"), 2)


def test_an_optimizer_without_eight_bits_is_an_error_of_the_config() -> None:
    workload = replace(TINY, optimizer="nadam", optimizer_state=OptimizerState.EIGHT_BIT)
    with pytest.raises(ConfigError, match="8 bits"):
        trace_step(workload, 2)


@pytest.mark.parametrize(("model", "has"), [("test_resnet", True), ("test_vit", False)])
def test_a_trace_tells_whether_a_model_has_batch_norm(model: str, has: bool) -> None:
    load = Workload(trainer="timm", model=model, imgsz=64, num_classes=3)
    parts = {birth.part for birth in trace_step(load, 2).events if isinstance(birth, Birth)}
    assert ("statistics" in parts) == has


@pytest.mark.parametrize(
    ("name", "value"), [("drop_path", 0.2), ("dropout", 0.2), ("mixup", 0.5), ("cutmix", 1.0)]
)
def test_options_that_change_a_step_change_its_bytes(name: str, value: float) -> None:
    load = Workload(trainer="timm", model="test_vit", imgsz=160, num_classes=100)
    plain, other = trace_step(load, 4), trace_step(replace(load, options=((name, value),)), 4)
    births = [sum(isinstance(e, Birth) for e in trace.events) for trace in (plain, other)]
    sizes = [sum(e.num_bytes for e in t.events if isinstance(e, Birth)) for t in (plain, other)]
    assert sizes[1] > sizes[0] or births[1] > births[0]
    assert peak(other) >= peak(plain)


def test_storages_made_in_portions_know_how_far_they_grow() -> None:
    """What dies before the last birth of a portion is there once, what outlives it twice."""
    tracker = Tracker()
    with tracker.in_portions(3, 1024):
        early = torch.empty(1024, dtype=torch.uint8)
        tracker.see(early.untyped_storage(), "early")
        small = torch.empty(512, dtype=torch.uint8)
        tracker.see(small.untyped_storage(), "small")
        del early
        late = torch.empty(2048, dtype=torch.uint8)
        tracker.see(late.untyped_storage(), "late")
        del late
    found = {e.op: e.most for e in tracker.finish(1).events if isinstance(e, Birth)}
    assert found == {"early": 3, "small": 0, "late": 6}
