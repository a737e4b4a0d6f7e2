"""A rank that keeps a part of the state: its trace, and what decides how much of it is whole."""

from dataclasses import replace

import pytest

from orchestrator.memory.events import Birth, StepTrace
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.split import Units, split_trace
from orchestrator.memory.trace import canonical, steps_of, trace_step
from orchestrator.plan.sharded import sharded
from orchestrator.plan.workload import StepKind, Workload

MIB = 1 << 20
UNITS = Units(root=4 * MIB, blocks=(10 * MIB, 20 * MIB))
TRACE = StepTrace(
    batch=4,
    events=(
        Birth(0, 64 * MIB, "weights", op="empty"),
        Birth(1, 6 * MIB, "activations"),
        Birth(2, 32 * MIB, "weights", op="_to_copy"),  # in half precision
        Birth(3, 64 * MIB, "gradients"),
        1,
        2,
        Birth(4, 128 * MIB, "optimizer"),
        Birth(5, 8 * MIB, "workspace"),
        5,
        3,
        Birth(6, 6 * MIB, "activations"),
        6,
    ),
    marks=(
        ("build", 0),
        ("step1:forward", 1),
        ("step1:backward", 3),
        ("step1:update", 6),
        ("step2:forward", 10),
    ),
)


def sizes(trace: StepTrace, part: str) -> list[int]:
    return [e.num_bytes for e in trace.events if isinstance(e, Birth) and e.part == part]


def live(trace: StepTrace) -> list[int]:
    """Live bytes before each mark but the first, and at the end."""
    alive: dict[int, int] = {}
    found, marks = [], {at for _, at in trace.marks if at}
    for at, event in enumerate(trace.events):
        if at in marks:
            found.append(sum(alive.values()) // MIB)
        if isinstance(event, Birth):
            alive[event.storage] = event.num_bytes
        else:
            del alive[event]
    return [*found, sum(alive.values()) // MIB]


def test_what_stays_is_shared_out_and_what_computes_is_not() -> None:
    found = split_trace(TRACE, UNITS, 4, is_on_host=False)
    assert sizes(found, "gradients") == [16 * MIB]
    assert sizes(found, "optimizer") == [32 * MIB]
    assert sizes(found, "workspace") == [2 * MIB]
    assert sizes(found, "activations") == sizes(TRACE, "activations")
    whole = UNITS.whole_bytes(has_gradients=True)
    assert whole == 8 * MIB + int(3.2 * 20 * MIB)
    # The part, what is whole in each of two steps, and the copy in half precision, which is too.
    assert sizes(found, "weights") == [16 * MIB, whole, 32 * MIB, whole]
    # Before the first step, its backward pass, its update, the second step, and in the end.
    assert live(found) == [16, 16 + 72 + 38, 16 + 72 + 16 - 72, 16 + 32, 16 + 32 + 72]
    assert [name for name, _ in found.marks] == [name for name, _ in TRACE.marks]


def test_of_parts_on_the_host_the_card_keeps_nothing() -> None:
    found = split_trace(TRACE, UNITS, 2, is_on_host=True)
    assert sizes(found, "optimizer") == sizes(found, "gradients") == [0]
    assert live(found)[0] == 0


def test_without_gradients_less_is_whole() -> None:
    marks = (("build", 0), ("step1:forward", 1))
    found = split_trace(replace(TRACE, marks=marks), UNITS, 2, is_on_host=False)
    assert sizes(found, "weights")[1] == 44 * MIB == UNITS.whole_bytes(has_gradients=False)
    assert Units(root=7).whole_bytes(has_gradients=True) == 14


@pytest.mark.parametrize("kind", [StepKind.TRAIN, StepKind.VALIDATE])
def test_a_traced_step_of_more_ranks_needs_less_and_grows_alike(kind: StepKind) -> None:
    plain = Workload(
        trainer="timm",
        model="test_vit",
        imgsz=64,
        num_classes=5,
        precision="fp32",
        has_flash_attention=False,
        kind=kind,
        world_size=2,
    )
    loads = [plain, *(replace(sharded(plain, "card"), world_size=n) for n in (2, 4, 8))]
    loads.append(sharded(plain, "host"))
    pairs = [[canonical(trace_step(load, n, device="cpu")) for n in (2, 4)] for load in loads]
    whole, two, four, eight, host = (LinearTrace.of(*pair).allocated_peak(2) for pair in pairs)
    assert whole > two > four > eight > host > 0


def test_the_units_of_a_model_are_all_of_it() -> None:
    workload = Workload(trainer="timm", model="resnet18", imgsz=64, num_classes=5)
    steps = steps_of(workload)
    model = steps.build(is_fake=False)
    units = steps.units(model)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert units.root + sum(units.blocks) == held
    assert max(units.blocks) > 0.3 * held  # the last block of the last stage
