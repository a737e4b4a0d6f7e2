"""The caching allocator once more, as slow and plain as possible: one list of blocks a pool."""

from dataclasses import dataclass, field

MIB = 1 << 20
END = 1 << 44  # of the addresses of an expandable range


@dataclass
class Block:
    start: int
    size: int
    state: str  # live, free, unmapped, or wall (between two fixed segments)


@dataclass
class SlowAllocator:
    is_expandable: bool
    capacity: int | None = None
    reserved: int = 0
    flushes: int = 0
    pools: dict[str, list[Block]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("small", "large"):
            blocks = [Block(0, END, "unmapped")] if self.is_expandable else []
            self.pools[name] = blocks

    @property
    def allocated(self) -> int:
        return sum(b.size for blocks in self.pools.values() for b in blocks if b.state == "live")

    def malloc(self, num_bytes: int) -> tuple[str, Block] | None:
        size = max(512, (num_bytes + 511) // 512 * 512)
        name = "small" if size <= MIB else "large"
        block = self.best_fit(name, size)
        for attempt in (1, 2):
            if block is None:
                block = self.grow(name, size)
            if block is None and attempt == 1:
                self.flushes += 1
                self.flush()
        if block is None:
            return None
        rest = block.size - size
        if rest >= 512 and (rest > MIB or name == "small" or self.is_expandable):
            blocks = self.pools[name]
            blocks.insert(blocks.index(block) + 1, Block(block.start + size, rest, "free"))
            block.size = size
        block.state = "live"
        return name, block

    def best_fit(self, name: str, size: int) -> Block | None:
        blocks = self.pools[name]
        fitting = [b for b in blocks if b.state == "free" and b.size >= size]
        fitting.sort(key=lambda b: (b.size, b.start))
        if not fitting:
            return None

        def reach(block: Block) -> int:
            after = blocks.index(block) + 1
            more = after < len(blocks) and blocks[after].state == "unmapped"
            return block.size + (blocks[after].size if more else 0)

        at = 0
        while at + 1 < len(fitting) and reach(fitting[at + 1]) < reach(fitting[at]):
            at += 1
        return fitting[at]

    def grow(self, name: str, size: int) -> Block | None:
        segment = 2 * MIB
        if size > MIB:
            segment = 20 * MIB if size < 10 * MIB else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        if self.capacity is not None and self.reserved + segment > self.capacity:
            return None
        if self.is_expandable:
            return self.expand(name, size)
        blocks = self.pools[name]
        start = blocks[-1].start + 1 if blocks else 0
        block = Block(start, segment, "free")
        blocks += [block, Block(start + segment, 0, "wall")]
        self.reserved += segment
        return block

    def expand(self, name: str, size: int) -> Block | None:
        blocks = self.pools[name]
        at = self.lowest_run(blocks, size)
        page = 2 * MIB if name == "small" else 20 * MIB
        while True:
            block = blocks[at]
            if block.state == "free" and block.size >= size:
                return block
            mapped = block.size if block.state == "free" else 0
            hole = blocks[at + 1] if block.state == "free" else block
            pages = (min(size - mapped, hole.size) + page - 1) // page * page
            if self.capacity is not None and self.reserved + pages > self.capacity:
                return None
            where = blocks.index(hole)
            parts = [Block(hole.start, pages, "free")]
            if hole.size > pages:
                parts.append(Block(hole.start + pages, hole.size - pages, "unmapped"))
            blocks[where : where + 1] = parts
            self.reserved += pages
            self.join(name)

    def lowest_run(self, blocks: list[Block], size: int) -> int:
        for at, block in enumerate(blocks):
            if block.state != "unmapped":
                continue
            first = at - 1 if at and blocks[at - 1].state == "free" else at
            room, last = 0, first
            while last < len(blocks) and blocks[last].state != "live" and room < size:
                room += blocks[last].size
                last += 1
            if room >= size:
                return first
        raise AssertionError("the range is endless")

    def free(self, handle: tuple[str, Block]) -> None:
        handle[1].state = "free"
        self.join(handle[0])

    def join(self, name: str) -> None:
        joined: list[Block] = []
        for block in self.pools[name]:
            last = joined[-1] if joined else None
            if last and last.state == block.state and block.state in ("free", "unmapped"):
                last.size += block.size
            else:
                joined.append(block)
        self.pools[name] = joined

    def flush(self) -> None:
        for name in ("large", "small"):
            if self.is_expandable:
                self.unmap(name)
            else:
                self.drop(name)

    def drop(self, name: str) -> None:
        blocks = self.pools[name]
        kept: list[Block] = []
        for at, block in enumerate(blocks):
            if block.state == "wall":
                if kept and kept[-1].state != "wall":
                    kept.append(block)
                continue
            is_first = at == 0 or blocks[at - 1].state == "wall"
            is_last = blocks[at + 1].state == "wall"
            if block.state == "free" and is_first and is_last:
                self.reserved -= block.size
            else:
                kept.append(block)
        self.pools[name] = kept

    def unmap(self, name: str) -> None:
        page = 2 * MIB if name == "small" else 20 * MIB
        split: list[Block] = []
        for block in self.pools[name]:
            end = block.start + block.size
            first = (block.start + page - 1) // page * page
            last = end // page * page
            if block.state != "free" or first >= last:
                split.append(block)
                continue
            self.reserved -= last - first
            if first > block.start:
                split.append(Block(block.start, first - block.start, "free"))
            split.append(Block(first, last - first, "unmapped"))
            if end > last:
                split.append(Block(last, end - last, "free"))
        self.pools[name] = split
        self.join(name)
