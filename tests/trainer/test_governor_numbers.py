"""The rules of the governor as functions of numbers: sizes, leaks, spilling."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.trainer.leak import growth
from orchestrator.trainer.microbatch import even_sizes, piece_sizes
from orchestrator.trainer.piece_size import PieceSize
from orchestrator.trainer.spill import StepTimes, is_full
from orchestrator.types import DeviceMemory

MIB = 1 << 20


@given(st.integers(1, 300), st.integers(1, 300))
def test_even_sizes_are_as_many_and_never_larger(num_samples: int, micro_batch: int) -> None:
    sizes = even_sizes(num_samples, micro_batch)
    assert sum(sizes) == num_samples
    assert len(sizes) == len(piece_sizes(num_samples, micro_batch))
    assert max(sizes) <= micro_batch
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 500), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**9))
def test_cutting_ends_at_one_after_few_steps(size: int, base: int, slope: int, room: int) -> None:
    piece = PieceSize(size=size, ceiling=size)
    piece.measured(base, base + slope * size)
    seen = [size]
    while (smaller := piece.smaller(room)) is not None:
        assert 1 <= smaller < piece.size
        piece.become(smaller)
        seen.append(smaller)
    assert piece.size == 1
    assert len(seen) <= 11


def test_without_measured_bytes_it_is_half_rounded_up() -> None:
    piece = PieceSize(size=7, ceiling=7)
    assert piece.smaller(None) == 4
    piece.become(3)
    assert piece.smaller(10**9) == 2


def test_measured_bytes_say_what_fits() -> None:
    piece = PieceSize(size=10, ceiling=10)
    piece.measured(100, 1100)
    assert piece.smaller(800) == 6  # 6 * 100 <= 0.9 * 700
    assert piece.smaller(300) == 1
    assert piece.smaller(50) == 1
    assert piece.smaller(5000) == 5  # it should have fitted: what was measured is not the reason


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 10**5),
    st.floats(0.1, 1),
)
def test_growing_stays_below_the_target_the_ceiling_and_what_failed(
    size: int, ceiling: int, failed: int, room: int, target: float
) -> None:
    piece = PieceSize(size=size, ceiling=ceiling, target=target, grow_after=1, failed=failed)
    piece.failed_room = room
    piece.measured(50, 50 + 100 * size)
    piece.went_well()
    larger = piece.larger(room)
    if larger is not None:
        assert size < larger <= max(size + 1, int(1.2 * size))
        assert larger <= ceiling
        assert larger < failed
        assert 50 + 100 * larger <= target * room


def test_it_grows_by_a_fifth_after_enough_clean_steps_and_past_a_failure_with_more_room() -> None:
    piece = PieceSize(size=20, ceiling=64, grow_after=3, failed=22, failed_room=3000)
    piece.measured(0, 2000)
    assert piece.larger(10_000) is None
    for _ in range(3):
        piece.went_well()
    assert piece.larger(3050) == 21
    assert piece.larger(4000) == 24
    assert piece.larger(None) is None


def test_a_steady_growth_is_a_leak() -> None:
    base = 2000 * MIB
    assert growth([base + 40 * MIB * n for n in range(6)]) == 40 * MIB


@pytest.mark.parametrize(
    "live",
    [
        [],
        [100 * MIB] * 20,
        [100 * MIB * n for n in range(4)],  # too few epochs
        [0, 900 * MIB, 900 * MIB, 900 * MIB, 900 * MIB, 900 * MIB],  # a cache that filled
        [10 * MIB * n for n in range(9)],  # 80 MiB in all
        [(500 if n % 2 else 0) * MIB + 30 * MIB * n for n in range(12)],  # up and down
    ],
)
def test_what_is_no_leak(live: list[int]) -> None:
    assert growth(live) == 0


@given(st.integers(20, 500), st.integers(6, 30), st.data())
def test_one_odd_epoch_hides_no_leak(mib: int, epochs: int, data: st.DataObject) -> None:
    live = [mib * MIB * n for n in range(epochs)]
    live[data.draw(st.integers(1, epochs - 2))] = 0
    found = growth(live)
    rises = sum(b > a for a, b in pairwise(live))
    if rises >= 0.8 * (epochs - 1) and mib * (epochs - 1) > 400:
        assert found == pytest.approx(mib * MIB, rel=0.5)


def test_steps_that_became_many_times_slower_are_seen_once_they_repeat() -> None:
    times = StepTimes()
    assert not any(times.add(0.1) for _ in range(20))
    assert not times.add(5.0)  # one slow step is the disk
    assert not times.add(0.1)
    assert [times.add(0.6) for _ in range(3)] == [False, False, True]
    times.clear()
    assert not any(times.add(9.0) for _ in range(20))


def test_a_card_is_full_when_the_driver_has_nothing_left() -> None:
    assert is_full(DeviceMemory(total_bytes=1000, used_bytes=990))
    assert not is_full(DeviceMemory(total_bytes=1000, used_bytes=900))
