"""The simulated caching allocator: laws, and the same answers as a slow and plain one."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.memory.allocator import CapacityExceeded, FixedSegments, segment_bytes
from orchestrator.memory.expandable import ExpandableSegments, allocator
from orchestrator.plan.footprint import Segments
from tests.memory.slow_allocator import MIB, SlowAllocator

KINDS = [FixedSegments, ExpandableSegments]

# Around every threshold of the allocator, and anything between.
SIZES = st.one_of(
    st.sampled_from(
        [
            edge + shift
            for edge in (512, MIB, 2 * MIB, 10 * MIB, 20 * MIB, 40 * MIB)
            for shift in (-513, -1, 0, 1, 512, MIB)
        ]
    ).filter(lambda size: size > 0),
    st.integers(1, 4 * MIB),
    st.integers(1, 90 * MIB),
)
# Half allocations, half deaths of the live block at a share of the list, now and then a flush.
SCRIPTS = st.lists(
    st.one_of(SIZES, st.floats(0, 1, exclude_max=True), st.just("flush")), max_size=60
)


def run(script: list[object], pool: FixedSegments) -> list[int | None]:
    """Follow the script; the address of each allocation, None where it was refused."""
    live: list[int] = []
    answers: list[int | None] = []
    for step in script:
        if isinstance(step, float):
            if live:
                pool.free(live.pop(int(step * len(live))))
        elif isinstance(step, int):
            try:
                live.append(pool.malloc(step))
                answers.append(live[-1])
            except CapacityExceeded:
                answers.append(None)
        else:
            pool.flush()
        check(pool, live)
    for address in live:
        pool.free(address)
    return answers


def check(pool: FixedSegments, live: list[int]) -> None:
    blocks = pool.live_blocks()
    cached = pool.free_blocks()
    assert sorted(blocks) == sorted(live)
    assert sum(blocks.values()) == pool.allocated
    assert pool.allocated + sum(cached.values()) == pool.reserved
    assert pool.reserved <= pool.peak_reserved
    assert pool.allocated <= pool.peak_allocated
    everything = sorted({**blocks, **cached}.items())
    assert len(everything) == len(blocks) + len(cached)
    for (start, size), (following, _) in pairwise(everything):
        assert start + size <= following  # no overlap
        if start + size == following:
            assert not (start in cached and following in cached)  # coalesced


@pytest.mark.parametrize("kind", KINDS)
@given(script=SCRIPTS)
@settings(max_examples=50, deadline=None)
def test_blocks_never_overlap_and_free_neighbours_are_joined(
    kind: type[FixedSegments], script: list[object]
) -> None:
    run(script, kind())


@pytest.mark.parametrize("kind", KINDS)
@given(script=SCRIPTS)
@settings(max_examples=50, deadline=None)
def test_after_everything_is_freed_and_flushed_nothing_is_reserved(
    kind: type[FixedSegments], script: list[object]
) -> None:
    pool = kind()
    run(script, pool)
    pool.flush()
    assert (pool.allocated, pool.reserved, pool.free_blocks()) == (0, 0, {})


@pytest.mark.parametrize("kind", KINDS)
@given(script=SCRIPTS, capacity=st.one_of(st.none(), st.integers(0, 400 * MIB)))
@settings(max_examples=150, deadline=None)
def test_it_answers_as_the_slow_model(
    kind: type[FixedSegments], script: list[object], capacity: int | None
) -> None:
    fast = kind(capacity)
    slow = SlowAllocator(kind is ExpandableSegments, capacity)
    live: list[tuple[int, object]] = []
    for step in script:
        if isinstance(step, float):
            if live:
                address, handle = live.pop(int(step * len(live)))
                fast.free(address)
                slow.free(handle)  # type: ignore[arg-type]
        elif isinstance(step, int):
            handle = slow.malloc(step)
            if handle is None:
                with pytest.raises(CapacityExceeded):
                    fast.malloc(step)
            else:
                live.append((fast.malloc(step), handle))
        else:
            fast.flush()
            slow.flush()
        assert (fast.allocated, fast.reserved) == (slow.allocated, slow.reserved)
        assert fast.num_flushes == slow.flushes
        assert capacity is None or fast.reserved <= capacity


@pytest.mark.parametrize("kind", KINDS)
@given(script=SCRIPTS, capacity=st.integers(0, 300 * MIB))
@settings(max_examples=50, deadline=None)
def test_an_elastic_run_says_whether_the_capacity_suffices(
    kind: type[FixedSegments], script: list[object], capacity: int
) -> None:
    elastic = kind(capacity, is_elastic=True)
    assert None not in run(script, elastic)
    is_enough = None not in run(script, kind(capacity))
    assert (elastic.capacity == capacity) == is_enough


@pytest.mark.parametrize(
    ("asked", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments_have_the_sizes_that_torch_documents(asked: int, segment: int) -> None:
    pool = FixedSegments()
    pool.malloc(asked)
    assert pool.reserved == segment == segment_bytes(asked)


def test_torch_has_the_constants_of_the_simulation() -> None:
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    header = Path(found.origin).parent / "include" / "c10" / "core" / "AllocatorConfig.h"
    text = header.read_text()
    for line in (
        "kSmallBuffer = 2097152;",
        "kMinBlockSize = 512;",
        "kSmallSize = 1048576;",
        "kMinLargeAlloc = 10485760;",
        "kRoundLarge = 2097152;",
        "large_segment_size_{20971520}",
    ):
        assert line in text


def test_a_rest_of_up_to_one_mib_of_a_large_block_is_not_split_off() -> None:
    pool = FixedSegments()
    pool.free(pool.malloc(12 * MIB))
    pool.malloc(11 * MIB)
    assert pool.allocated == 12 * MIB
    split = FixedSegments()
    split.free(split.malloc(12 * MIB))
    split.malloc(11 * MIB - 512)
    assert split.allocated == 11 * MIB - 512


def test_a_flush_makes_room_for_a_request_of_another_size() -> None:
    pool = FixedSegments(100 * MIB)
    for address in [pool.malloc(30 * MIB) for _ in range(3)]:
        pool.free(address)
    pool.malloc(80 * MIB)
    assert (pool.reserved, pool.num_flushes) == (80 * MIB, 1)


def test_a_partly_used_segment_survives_the_flush_and_its_rest_is_lost() -> None:
    pool = FixedSegments(100 * MIB)
    whole = pool.malloc(60 * MIB)
    pool.free(whole)
    pool.malloc(2 * MIB)  # cut from the 60 MiB
    with pytest.raises(CapacityExceeded):
        pool.malloc(59 * MIB)
    expandable = ExpandableSegments(100 * MIB)
    expandable.free(expandable.malloc(60 * MIB))
    expandable.malloc(2 * MIB)
    expandable.malloc(59 * MIB)  # the free pages are unmapped, or grown at the end
    assert expandable.allocated == 61 * MIB


@given(st.lists(st.integers(1, 60 * MIB), min_size=1, max_size=12), st.data())
@settings(deadline=None)
def test_expandable_segments_complete_with_the_peak_and_the_page_rounding(
    sizes: list[int], data: st.DataObject
) -> None:
    """Rounds of allocations, all freed between: nothing pins a page, so no round costs more."""
    rounds = [data.draw(st.permutations(sizes)) for _ in range(3)]
    peak = sum(-(-size // 512) * 512 for size in sizes)
    # One page may be begun in each pool, and a request counts rounded to 20 MiB beside the rest.
    pool = ExpandableSegments(peak + 42 * MIB)
    for script in rounds:
        for address in [pool.malloc(size) for size in script]:
            pool.free(address)
    assert pool.allocated == 0


def test_the_kind_of_segments_chooses_the_simulation() -> None:
    assert type(allocator(Segments.FIXED)) is FixedSegments
    assert type(allocator(Segments.EXPANDABLE, 5)) is ExpandableSegments


def test_a_larger_block_is_preferred_to_one_that_could_still_expand() -> None:
    pool = ExpandableSegments()
    first = pool.malloc(15 * MIB)
    pool.malloc(5 * MIB)
    pool.malloc(30 * MIB)  # pages up to 60 MiB are mapped: 10 MiB before the unmapped rest
    pool.free(first)
    assert sorted(pool.free_blocks().values()) == [10 * MIB, 15 * MIB]
    assert pool.malloc(8 * MIB) == first
    slow = SlowAllocator(is_expandable=True)
    handle = slow.malloc(15 * MIB)
    slow.malloc(5 * MIB)
    slow.malloc(30 * MIB)
    assert handle is not None
    slow.free(handle)
    found = slow.malloc(8 * MIB)
    assert found is not None
    assert found[1].start == handle[1].start == 0


def test_pages_in_the_middle_are_mapped_again_before_the_end_grows() -> None:
    pool = ExpandableSegments(200 * MIB)
    kept = [pool.malloc(20 * MIB) for _ in range(6)]
    for address in kept[1:3]:
        pool.free(address)
    pool.flush()
    assert pool.reserved == 80 * MIB
    assert pool.malloc(40 * MIB) == kept[1]
    assert pool.reserved == 120 * MIB
