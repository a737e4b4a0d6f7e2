"""Two traces answer for every micro-batch: the same as a trace of that micro-batch would."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import OrchestratorError
from orchestrator.memory.creep import LabelledTrace, creep, creeping_demand
from orchestrator.memory.events import PARTS, Birth, StepTrace
from orchestrator.memory.expandable import allocator
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import (
    demand,
    fits,
    footprint,
    largest,
    micro_batches,
    replay,
)
from orchestrator.plan.footprint import Segments
from orchestrator.plan.workload import Workload
from tests.memory.made_traces import Layer, made_trace

MIB = 1 << 20
WORKLOAD = Workload(trainer="timm", model="made", imgsz=32, num_classes=2)
LAYERS = st.lists(
    st.tuples(st.integers(1, 9 * MIB), st.integers(1, 3 * MIB), st.integers(1, 5 * MIB)),
    min_size=1,
    max_size=12,
)
NET: list[Layer] = [
    (3 * MIB + 7, 2 * MIB + 100, MIB),
    (MIB, 300_000, 90_001),
    (5_000, 700, 2 * MIB),
]
KINDS = list(Segments)


def linear(layers: list[Layer], batches: tuple[int, int] = (2, 4), labels: int = 0) -> LinearTrace:
    first, second = (made_trace(layers, batch, labels=labels) for batch in batches)
    return LinearTrace.of(first, second)


@pytest.mark.parametrize("segments", KINDS)
@given(layers=LAYERS, batch=st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_two_traces_say_the_same_as_a_trace_of_that_batch(
    segments: Segments, layers: list[Layer], batch: int
) -> None:
    direct = LinearTrace.of(made_trace(layers, batch), made_trace(layers, batch + 1))
    assert demand(linear(layers), batch, segments=segments) == demand(
        direct, batch, segments=segments
    )


@pytest.mark.parametrize("segments", KINDS)
@given(layers=LAYERS, batch=st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_a_demand_suffices_and_lies_between_allocated_and_reserved(
    segments: Segments, layers: list[Layer], batch: int
) -> None:
    trace = linear(layers)
    found = demand(trace, batch, segments=segments)
    assert found.allocated_bytes <= found.least_bytes
    assert segments is Segments.EXPANDABLE or found.least_bytes <= found.reserved_bytes
    assert fits(trace, batch, found.least_bytes, segments=segments)
    assert not fits(trace, batch, trace.allocated_peak(batch) - 512, segments=segments)


@given(layers=LAYERS, batch=st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_sums_alone_give_the_allocated_peak(layers: list[Layer], batch: int) -> None:
    trace = linear(layers)
    found = replay(trace, batch, allocator(Segments.EXPANDABLE))
    assert trace.allocated_peak(batch) == found.peak_allocated
    # Fixed segments do not split off a rest of up to 1 MiB, so their blocks may be larger.
    assert (
        trace.allocated_peak(batch)
        <= replay(trace, batch, allocator(Segments.FIXED)).peak_allocated
    )


@pytest.mark.parametrize("segments", KINDS)
@given(layers=LAYERS, capacity=st.integers(0, 900 * MIB))
@settings(max_examples=50, deadline=None)
def test_the_largest_fits_and_one_more_does_not(
    segments: Segments, layers: list[Layer], capacity: int
) -> None:
    trace = linear(layers)
    found = largest(trace, capacity, segments=segments, at_most=500)
    assert 0 <= found <= 500
    assert found == 0 or fits(trace, found, capacity, segments=segments)
    assert found == 500 or not fits(trace, found + 1, capacity, segments=segments)


def test_the_largest_leaves_room_for_workspaces() -> None:
    trace = linear(NET)
    taken = [32 * MIB, 32 * MIB]
    found = largest(trace, 600 * MIB, workspaces=taken)
    assert fits(trace, found, 600 * MIB, workspaces=taken)
    assert not fits(trace, found + 1, 600 * MIB, workspaces=taken)
    assert found < largest(trace, 600 * MIB)


@pytest.mark.parametrize("segments", KINDS)
@given(layers=LAYERS)
@settings(max_examples=30, deadline=None)
def test_parts_and_modules_add_up_to_the_allocated_peak(
    segments: Segments, layers: list[Layer]
) -> None:
    known = footprint(WORKLOAD, linear(layers), 8, segments=segments)
    peak = known.points[-1].allocated_bytes
    assert sum(known.parts.values()) == sum(known.modules.values()) == peak
    assert tuple(known.parts) == PARTS
    assert known.parts["weights"] >= sum(weights for weights, _, _ in layers)


@pytest.mark.parametrize("segments", KINDS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_between_its_points_a_footprint_is_never_below_the_replay(
    segments: Segments, seed: int
) -> None:
    chance = random.Random(seed)
    layers = [
        (chance.randrange(1, 9 * MIB), chance.randrange(1, 3 * MIB), chance.randrange(1, 2 * MIB))
        for _ in range(chance.randrange(5, 20))
    ]
    trace = linear(layers)
    known = footprint(WORKLOAD, trace, 64, segments=segments)
    for batch in range(9, 64, 6):
        exact, above = demand(trace, batch, segments=segments), known.at(batch)
        if segments is Segments.EXPANDABLE:  # blocks of fixed segments keep rests, by chance
            assert above.allocated_bytes >= exact.allocated_bytes
        assert above.reserved_bytes >= exact.reserved_bytes
        assert above.least_bytes >= exact.least_bytes


def test_between_the_points_of_a_deep_net_a_footprint_is_not_far_above() -> None:
    chance = random.Random(1)
    trace = linear([(chance.randrange(MIB), chance.randrange(MIB), 9000) for _ in range(80)])
    known = footprint(WORKLOAD, trace, 64)
    for batch in (13, 29, 59):
        exact = demand(trace, batch).least_bytes
        assert exact <= known.at(batch).least_bytes <= 1.06 * exact + 40 * MIB


def test_the_points_of_a_footprint_are_dense_at_first() -> None:
    assert micro_batches(1) == [1]
    assert micro_batches(6) == [1, 2, 3, 4, 5, 6]
    assert micro_batches(40) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40]


def test_the_order_of_deaths_in_a_row_does_not_matter() -> None:
    first, second = made_trace(NET, 2), made_trace(NET, 4)
    turned = list(second.events)
    row = next(
        i
        for i in range(len(turned) - 1)
        if not any(isinstance(e, Birth) for e in turned[i : i + 2])
    )
    turned[row], turned[row + 1] = turned[row + 1], turned[row]
    other = LinearTrace.of(first, replace(second, events=turned))
    assert demand(other, 9) == demand(LinearTrace.of(first, second), 9)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (made_trace(NET, 2), "both are of 2 samples"),
        (made_trace(NET[:2], 4), "37 allocations at 2 samples, 26 at 4"),
        (
            StepTrace(batch=4, events=made_trace(NET, 4).events[:-1], marks=()),
            "65 events at 2 samples, 64 at 4",
        ),
    ],
)
def test_traces_that_differ_are_refused(second: StepTrace, why: str) -> None:
    with pytest.raises(OrchestratorError) as raised:
        LinearTrace.of(made_trace(NET, 2), second)
    assert raised.value.code == "E2120"
    assert raised.value.why[0] == why


def test_a_difference_is_named_by_its_place() -> None:
    first, second = made_trace(NET, 2), made_trace(NET, 4)
    moved = list(second.events)
    at = next(i for i, e in enumerate(moved) if not isinstance(e, Birth))
    moved[at], moved[at + 1] = moved[at + 1], moved[at]
    with pytest.raises(OrchestratorError) as raised:
        LinearTrace.of(first, replace(second, events=moved))
    assert raised.value.why[0] == f"the first difference is event {at} of {len(moved)}"


def labelled() -> LabelledTrace:
    return LabelledTrace(
        low=linear(NET, labels=100), high=linear(NET, labels=300), low_most=100, high_most=300
    )


@given(batch=st.integers(1, 40), most=st.integers(0, 900))
@settings(max_examples=50, deadline=None)
def test_sizes_are_bilinear_in_samples_and_labels(batch: int, most: int) -> None:
    direct = linear(NET, labels=most)
    assert demand(labelled().at(most), batch) == demand(direct, batch)


def test_with_steady_labels_the_reserve_does_not_creep() -> None:
    pool = allocator(Segments.FIXED)
    reserved = creep(labelled(), 8, [200] * 30, pool)
    assert len(set(reserved[2:])) == 1
    assert (
        pool.peak_allocated
        == demand(labelled().at(200), 8, segments=Segments.FIXED).allocated_bytes
    )


def test_varying_labels_creep_in_fixed_segments_and_hardly_in_expandable_ones() -> None:
    chance = random.Random(0)
    most = [int(chance.lognormvariate(5.9, 0.35)) for _ in range(100)]
    fixed = creeping_demand(labelled(), 16, most, segments=Segments.FIXED)
    expandable = creeping_demand(labelled(), 16, most, segments=Segments.EXPANDABLE)
    steady = demand(labelled().at(max(most)), 16, segments=Segments.FIXED)
    assert fixed.reserved_bytes > 1.2 * steady.reserved_bytes
    assert expandable.reserved_bytes < 1.05 * expandable.allocated_bytes + 40 * MIB
    assert creep(labelled(), 16, most, allocator(Segments.FIXED, fixed.least_bytes))


def test_a_footprint_can_count_the_creep_in() -> None:
    most = [100, 500, 140, 320, 60]
    known = footprint(
        WORKLOAD,
        labelled().at(500),
        8,
        segments=Segments.FIXED,
        demand_of=lambda batch: creeping_demand(labelled(), batch, most),
    )
    assert known.points[-1] == creeping_demand(labelled(), 8, most)


def test_what_is_done_in_portions_grows_no_further_than_a_portion() -> None:
    births = [
        (Birth(0, 100 * n * 512, "loss"), Birth(1, 10 * n * 512, "loss", most=6)) for n in (2, 4)
    ]
    low, high = (
        StepTrace(batch=n, events=b, marks=()) for n, b in zip((2, 4), births, strict=True)
    )
    trace = LinearTrace.of(low, high)
    for batch in (1, 5, 6, 7, 100):
        assert trace.allocated_peak(batch) == (100 * batch + 10 * min(batch, 6)) * 512
