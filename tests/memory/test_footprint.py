"""A footprint between, below and beyond its points."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.footprint import Demand, Footprint
from orchestrator.plan.workload import Workload

MIB = 1 << 20
WORKLOAD = Workload(trainer="timm", model="made", imgsz=32, num_classes=2)


def demand(batch: int, least: int) -> Demand:
    return Demand(
        micro_batch=batch, allocated_bytes=least - 2, reserved_bytes=least + 2, least_bytes=least
    )


def known(*points: Demand) -> Footprint:
    return Footprint(workload=WORKLOAD, points=points)


@pytest.mark.parametrize("batches", [(), (0, 1), (2, 1), (1, 1)])
def test_points_ascend_from_one(batches: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        known(*(demand(batch, 100) for batch in batches))


def test_a_point_is_exact_and_between_two_the_chord_and_the_scatter_hold() -> None:
    points = [
        Demand(micro_batch=n, allocated_bytes=a, reserved_bytes=a * 12 // 10, least_bytes=least)
        for n, a, least in ((1, 100 * MIB, 104 * MIB), (4, 400 * MIB, 408 * MIB))
    ]
    footprint = known(*points)
    assert footprint.at(4) == points[1]
    between = footprint.at(3)
    assert between.allocated_bytes == 302 * MIB  # 2 MiB of rounding
    assert between.least_bytes == -(-302 * MIB * 1025 // 1000) + 40 * MIB  # 2 % and a quarter
    assert between.reserved_bytes == -(-302 * MIB * 125 // 100) + 40 * MIB
    assert footprint.at(5).allocated_bytes == 502 * MIB


def test_of_a_single_point_more_samples_are_multiples() -> None:
    footprint = known(demand(4, 100))
    assert footprint.at(2).allocated_bytes == 98
    assert footprint.at(9).allocated_bytes == 3 * 98


@given(st.integers(1, 300), st.integers(0, 6000))
@settings(deadline=None)
def test_the_largest_is_within_the_capacity_and_the_next_is_not(each: int, capacity: int) -> None:
    footprint = known(*(demand(n, (50 + n * each) * MIB) for n in (1, 2, 4, 8, 16)))
    found = footprint.largest(capacity * MIB)
    assert found == 0 or footprint.at(found).least_bytes <= capacity * MIB
    assert found == 16 or footprint.at(found + 1).least_bytes > capacity * MIB
