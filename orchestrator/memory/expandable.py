"""The caching allocator under `expandable_segments:True`: pages mapped and unmapped on demand."""

from bisect import bisect_left

from orchestrator.memory.allocator import (
    ADDRESS_BITS,
    ADDRESS_MASK,
    Allocator,
    FixedSegments,
    Pool,
    segment_bytes,
)
from orchestrator.plan.footprint import Segments
from orchestrator.types import Bytes

__all__ = ["ExpandableSegments", "allocator"]

_ENDLESS = 1 << 55  # bytes of unmapped addresses behind everything


def allocator(
    segments: Segments, capacity: Bytes | None = None, *, is_elastic: bool = False
) -> Allocator:
    """A new simulator. An elastic one raises its capacity instead of refusing a request."""
    kind = ExpandableSegments if segments is Segments.EXPANDABLE else FixedSegments
    return kind(capacity, is_elastic=is_elastic)


class ExpandableSegments(FixedSegments):
    """The allocator under `expandable_segments:True`: one range of addresses a pool, in pages.

    Pages of 2 MiB (small pool) and 20 MiB (large pool) are mapped as they are needed, at the
    lowest addresses where the request fits, and a flush unmaps every page that is wholly free. The
    range has no end here; a real one is 9/8 of the card, after which a second one begins.

    The limit counts in two ways, as on a card: a request is refused if its rounded size does not
    fit beside what is mapped (`set_per_process_memory_fraction`), or if its pages do not.
    """

    _least_rest = 512  # blocks are split down to kMinBlockSize in both pools

    def __init__(self, capacity: Bytes | None = None, *, is_elastic: bool = False) -> None:
        super().__init__(capacity, is_elastic=is_elastic)
        self._holes: dict[int, Bytes] = {self._small.base: _ENDLESS, self._large.base: _ENDLESS}
        self._hole_starts = {id(pool): [pool.base] for pool in (self._small, self._large)}

    def flush(self) -> None:
        """Unmap every wholly free page (`unmap_block`)."""
        for pool in (self._large, self._small):
            for start, size in list(pool.sizes.items()):
                page, end = pool.page, start + size
                first, last = -(-start // page) * page, end // page * page
                if first >= last:
                    continue
                pool.remove(start)
                if first > start:
                    pool.insert(start, first - start)
                if end > last:
                    pool.insert(last, end - last)
                self._unmap(pool, first, last - first)

    def _choose(self, pool: Pool, index: int) -> int:
        """Prefer a block that cannot expand: one before unmapped pages counts with those."""
        keys, holes = pool.keys, self._holes
        while index + 1 < len(keys):
            here, there = keys[index], keys[index + 1]
            size, other = here >> ADDRESS_BITS, there >> ADDRESS_BITS
            reach = size + holes.get((here & ADDRESS_MASK) + size, 0)
            if other + holes.get((there & ADDRESS_MASK) + other, 0) >= reach:
                break
            index += 1
        return index

    def _obtain(self, pool: Pool, size: Bytes) -> tuple[int, Bytes] | None:
        capacity = self.capacity
        if capacity is not None and self.reserved + segment_bytes(size) > capacity:
            return None
        start = next(
            start
            for hole in self._hole_starts[id(pool)]
            if self._has_room(pool, start := pool.starts.get(hole, hole), size)
        )
        while (mapped := pool.sizes.get(start, 0)) < size:
            hole = start + mapped
            pages = -(-min(size - mapped, self._holes[hole]) // pool.page) * pool.page
            if capacity is not None and self.reserved + pages > capacity:
                return None  # what was mapped stays, as free blocks
            self._map(pool, hole, pages)
        return start, pool.remove(start)

    def _has_room(self, pool: Pool, position: int, size: Bytes) -> bool:
        """Whether `size` bytes from there on are free or unmapped."""
        end = position + size
        while position < end:
            length = pool.sizes.get(position) or self._holes.get(position)
            if not length:
                return False
            position += length
        return True

    def _map(self, pool: Pool, hole: int, num_bytes: Bytes) -> None:
        rest = self._holes.pop(hole) - num_bytes
        starts = self._hole_starts[id(pool)]
        index = bisect_left(starts, hole)
        if rest:
            self._holes[hole + num_bytes] = rest
            starts[index] = hole + num_bytes
        else:
            del starts[index]
        pool.put(hole, num_bytes)
        self.reserved += num_bytes

    def _unmap(self, pool: Pool, start: int, size: Bytes) -> None:
        self.reserved -= size
        starts = self._hole_starts[id(pool)]
        index = bisect_left(starts, start)
        if index < len(starts) and starts[index] == start + size:
            size += self._holes.pop(starts.pop(index))
        if index and starts[index - 1] + self._holes[starts[index - 1]] == start:
            self._holes[starts[index - 1]] += size
            return
        self._holes[start] = size
        starts.insert(index, start)
