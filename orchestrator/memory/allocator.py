"""PyTorch's CUDA caching allocator, simulated: fixed segments, a cache, and a limit."""

from bisect import bisect_left, insort
from typing import Protocol

from orchestrator.types import Bytes

__all__ = [
    "ADDRESS_BITS",
    "ADDRESS_MASK",
    "Allocator",
    "CapacityExceeded",
    "FixedSegments",
    "Pool",
    "segment_bytes",
]

# c10/core/AllocatorConfig.h of torch 2.15 (the same numbers since torch 1.4 in
# c10/cuda/CUDACachingAllocator.cpp): kMinBlockSize, kSmallSize, kSmallBuffer, kMinLargeAlloc,
# kRoundLarge, and `large_segment_size_mb`, which is 20 unless set.
_BLOCK = 512
_SMALL = 1 << 20
_SMALL_SEGMENT = 2 << 20
_LARGE_SEGMENT = 20 << 20
_FROM_LARGE_SEGMENT = 10 << 20  # requests below are cut from a large segment
_ROUND = 2 << 20

# A free block is the integer `size << 64 | address`, which sorts by size, then by address.
ADDRESS_BITS = 64
ADDRESS_MASK = (1 << ADDRESS_BITS) - 1
_LARGE_BASE = _LARGE_SEGMENT << 35  # addresses of large blocks begin here, on a page


class CapacityExceeded(Exception):  # noqa: N818 - an expected answer of a simulation
    """A request does not fit under the limit, not even after the cache has been flushed."""


class Allocator(Protocol):
    """What both kinds of segments offer. Sizes are bytes; a block is named by its address."""

    capacity: Bytes | None
    allocated: Bytes
    reserved: Bytes
    peak_allocated: Bytes
    peak_reserved: Bytes
    num_flushes: int

    def malloc(self, num_bytes: Bytes) -> int:
        """The address of a new live block.

        Raises:
            CapacityExceeded: As `torch.OutOfMemoryError`.
        """
        ...

    def lend(self, num_bytes: Bytes) -> int:
        """`malloc` of a block that `peak_allocated` does not count.

        Raises:
            CapacityExceeded: As `malloc`.
        """
        ...

    def free(self, address: int) -> None:
        """Return a live block to the cache."""
        ...

    def flush(self) -> None:
        """As `torch.cuda.empty_cache`: give back what is free as a whole."""
        ...


def segment_bytes(size: Bytes) -> Bytes:
    """What is asked of the driver for a rounded request (`get_allocation_size`)."""
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _FROM_LARGE_SEGMENT:
        return _LARGE_SEGMENT
    return -(-size // _ROUND) * _ROUND


class Pool:
    """Free mapped blocks of one pool: sorted for best fit, and by both ends for coalescing."""

    __slots__ = ("base", "keys", "least_rest", "page", "sizes", "starts")

    def __init__(self, base: int, page: Bytes, least_rest: Bytes) -> None:
        self.base = base
        self.page = page
        self.least_rest = least_rest  # a block is split when at least this would be left
        self.keys: list[int] = []
        self.sizes: dict[int, Bytes] = {}  # by start
        self.starts: dict[int, int] = {}  # by end

    def insert(self, start: int, size: Bytes) -> None:
        """Add a free block that touches no other free block."""
        insort(self.keys, size << ADDRESS_BITS | start)
        self.sizes[start] = size
        self.starts[start + size] = start

    def remove(self, start: int) -> Bytes:
        """Take a free block out and return its size."""
        size = self.sizes.pop(start)
        del self.starts[start + size]
        del self.keys[bisect_left(self.keys, size << ADDRESS_BITS | start)]
        return size

    def put(self, start: int, size: Bytes) -> None:
        """Add a free block and join it with its free neighbours."""
        sizes, starts, keys = self.sizes, self.starts, self.keys
        before = starts.pop(start, None)
        if before is not None:
            length = sizes.pop(before)
            del keys[bisect_left(keys, length << ADDRESS_BITS | before)]
            start = before
            size += length
        after = sizes.pop(start + size, None)
        if after is not None:
            del keys[bisect_left(keys, after << ADDRESS_BITS | (start + size))]
            size += after
        insort(keys, size << ADDRESS_BITS | start)
        sizes[start] = size
        starts[start + size] = start


class FixedSegments:
    """The default allocator: `max_split_size_mb` unset, no garbage collection, one stream.

    Best fit by size, then address; a new segment where nothing fits; when the limit is in the way,
    all wholly free segments go back to the driver and it is tried again, then it is out of memory.
    Segments get ascending addresses that never touch; a real driver may order them otherwise,
    which decides only between free blocks of exactly equal size.

    Args:
        capacity: Bytes that all segments may take together; None sets no limit.
        is_elastic: Raise the capacity instead of refusing.
    """

    _least_rest = _SMALL + _BLOCK  # of the large pool: the rest must exceed kSmallSize

    def __init__(self, capacity: Bytes | None = None, *, is_elastic: bool = False) -> None:
        self.capacity = capacity
        self.allocated = self.reserved = 0
        self.peak_allocated = self.peak_reserved = 0
        self.num_flushes = 0
        self._is_elastic = is_elastic
        self._live: dict[int, Bytes] = {}
        self._segments: dict[int, Bytes] = {}
        self._small = Pool(0, _SMALL_SEGMENT, _BLOCK)
        self._large = Pool(_LARGE_BASE, _LARGE_SEGMENT, self._least_rest)
        self._frontier = {id(pool): pool.base for pool in (self._small, self._large)}

    def malloc(self, num_bytes: Bytes) -> int:
        """See `Allocator.malloc`."""
        size = -(-num_bytes // _BLOCK) * _BLOCK or _BLOCK
        pool = self._small if size <= _SMALL else self._large
        keys = pool.keys
        index = self._choose(pool, bisect_left(keys, size << ADDRESS_BITS))
        if index < len(keys):
            key = keys.pop(index)
            start, block = key & ADDRESS_MASK, key >> ADDRESS_BITS
            del pool.sizes[start], pool.starts[start + block]
        else:
            start, block = self._grow(pool, size)
        if block - size >= pool.least_rest:
            pool.insert(start + size, block - size)
            block = size
        self._live[start] = block
        self.allocated += block
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return start

    def lend(self, num_bytes: Bytes) -> int:
        """See `Allocator.lend`."""
        peak = self.peak_allocated
        address = self.malloc(num_bytes)
        self.peak_allocated = peak
        return address

    def free(self, address: int) -> None:
        """See `Allocator.free`."""
        size = self._live.pop(address)
        self.allocated -= size
        # A live block of the small pool is at most 1 MiB, one of the large pool is more.
        (self._small if size <= _SMALL else self._large).put(address, size)

    def flush(self) -> None:
        """Give back every segment that is free from end to end (`release_blocks`)."""
        for pool in (self._large, self._small):
            for start, size in list(pool.sizes.items()):
                if self._segments.get(start) == size:
                    pool.remove(start)
                    del self._segments[start]
                    self.reserved -= size

    def live_blocks(self) -> dict[int, Bytes]:
        """Sizes of the live blocks by address."""
        return dict(self._live)

    def free_blocks(self) -> dict[int, Bytes]:
        """Sizes of the cached blocks by address."""
        return self._small.sizes | self._large.sizes

    def _choose(self, pool: Pool, index: int) -> int:
        """Which of the free blocks of the pool, the best fit being the one at `index`."""
        del pool
        return index

    def _grow(self, pool: Pool, size: Bytes) -> tuple[int, Bytes]:
        """A new free block of at least `size` from the driver, outside of the pool's lists."""
        found = self._obtain(pool, size)
        if found is None:
            self.num_flushes += 1
            self.flush()
            found = self._obtain(pool, size)
        while found is None:
            if not self._is_elastic:
                raise CapacityExceeded(f"{size} bytes: {self.reserved} of {self.capacity} taken")
            asked = self.reserved + segment_bytes(size)
            self.capacity = max(asked, (self.capacity or 0) + _ROUND)
            found = self._obtain(pool, size)
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return found

    def _obtain(self, pool: Pool, size: Bytes) -> tuple[int, Bytes] | None:
        segment = segment_bytes(size)
        if self.capacity is not None and self.reserved + segment > self.capacity:
            return None
        start = self._frontier[id(pool)]
        self._frontier[id(pool)] = start + segment + _BLOCK
        self._segments[start] = segment
        self.reserved += segment
        return start, segment
