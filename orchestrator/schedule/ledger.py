"""Who holds how much of which card, and of the CPUs and RAM of which node, indexed for search."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from orchestrator.schedule.cards import (
    NOTHING,
    CardRoom,
    Free,
    Kind,
    Model,
    NodeRoom,
    Pool,
    Size,
    Tally,
    ram_of,
)
from orchestrator.types import Card, Node, NodeId, RunId, Share

__all__ = ["Ledger"]

MAX_CHANGES = 4096  # who looks away for longer than this looks at everything again

# Every change of a card visits all tallies of its pool; an old one is counted again when needed.
MAX_TALLIES = 32


class Ledger:
    """What is free. A byte of a card belongs to one run at a time.

    `grown` collects the nodes on which room appeared since somebody last emptied it.
    `inventory` counts the changes of what exists, so that answers about it can be kept.
    """

    def __init__(self) -> None:
        self.nodes: dict[NodeId, NodeRoom] = {}
        self.by_order: dict[int, NodeRoom] = {}
        self.pools: dict[Kind, Pool] = {}
        self.by_free_cpus: list[tuple[float, int]] = []
        self.grown: dict[NodeId, None] = {}
        self.foreign: dict[tuple[NodeId, int], CardRoom] = {}  # cards that others use too
        self.aside: dict[tuple[NodeId, int], CardRoom] = {}  # cards that are not trusted
        self.inventory = 0
        self.most_cards = 0  # of a node
        self.models: dict[Model, int] = {}  # nodes of each make-up: few, however many nodes
        self.changes: deque[NodeId] = deque(maxlen=MAX_CHANGES)  # nodes, newest last
        self.num_changes = 0
        self._next_order = 0

    def join(self, node: Node) -> None:
        """Add a node, or take over the new facts of one that is known."""
        room = self.nodes.get(node.node_id)
        if room is None:
            room = NodeRoom(node=node, order=self._next_order, free_cpus=node.num_cpus)
            room.free_host_bytes = ram_of(node)
            self._next_order += 1
            self.nodes[node.node_id] = room
            self.by_order[room.order] = room
            insort(self.by_free_cpus, (room.free_cpus, room.order))
        else:
            self._set_cpus(room, room.free_cpus + node.num_cpus - room.node.num_cpus)
            room.free_host_bytes += ram_of(node) - ram_of(room.node)
            room.node = node
        reported = {card.index: card for card in node.cards}
        for index in [index for index in room.cards if index not in reported]:
            self._retire(room, index)
        for card in node.cards:
            self._update(room, card)
        self._set_model(room)
        self.note(node.node_id)
        self.inventory += 1
        self.grown[node.node_id] = None

    def lose(self, node_id: NodeId) -> tuple[RunId, ...]:
        """Remove a node with everything on it; returns the runs that had a share there."""
        room = self.nodes.pop(node_id)
        for card in room.cards.values():
            self._unlist(card)
            self.foreign.pop((node_id, card.card.index), None)
            self.aside.pop((node_id, card.card.index), None)
        del self.by_order[room.order]
        del self.by_free_cpus[bisect_left(self.by_free_cpus, (room.free_cpus, room.order))]
        self._count_model(room.model, -1)
        self.grown.pop(node_id, None)
        self.note(node_id)
        self.inventory += 1
        return tuple(room.runs)

    def take(self, run_id: RunId, shares: Iterable[Share], *, is_whole: bool) -> None:
        """Give shares to a run; `is_whole` keeps other runs off its cards."""
        for share in shares:
            room = self.nodes[share.node_id]
            self.note(share.node_id)
            room.runs.setdefault(run_id, []).append(share)
            if share.host_bytes:
                room.free_host_bytes -= share.host_bytes
            if share.num_cpus:
                self._set_cpus(room, room.free_cpus - share.num_cpus)
            if share.card is not None:
                card = room.cards[share.card]
                assert run_id not in card.users, f"{run_id} twice on {share}"
                card.used_bytes += share.memory_bytes
                card.users[run_id] = share.memory_bytes
                card.is_whole = is_whole
                _recount(card)

    def charge(self, shares: Iterable[Share], *, is_whole: bool) -> tuple[float, float]:
        """Worth of shares, and their number in cards; a share counts as that part of its card."""
        worth = num = 0.0
        for share in shares:
            if share.card is not None:
                card = self.nodes[share.node_id].cards[share.card].card
                part = 1.0 if is_whole else share.memory_bytes / max(card.memory_bytes, 1)
                worth += part * card.worth
                num += part
        return worth, num

    def give_back(self, run_id: RunId, shares: Iterable[Share]) -> None:
        """Free shares of nodes that are still there."""
        for share in shares:
            room = self.nodes[share.node_id]
            room.runs.pop(run_id, None)
            if share.host_bytes:
                room.free_host_bytes += share.host_bytes
            if share.num_cpus:
                self._set_cpus(room, room.free_cpus + share.num_cpus)
            if share.card is not None:
                card = room.cards[share.card]
                card.used_bytes -= card.users.pop(run_id)
                card.is_whole = card.is_whole and bool(card.users)
                _recount(card)
                if card.is_gone and not card.users:
                    del room.cards[share.card]
            self.grown[share.node_id] = None
            self.note(share.node_id)

    def shut(self, card: CardRoom, aside: str, *, is_on_trial: bool) -> None:
        """Let nothing new come to a card while `aside` says why, and one run while on trial."""
        if (card.aside, card.is_on_trial) == (aside, is_on_trial):
            return
        card.aside, card.is_on_trial = aside, is_on_trial
        _recount(card)
        node_id = card.node.node.node_id
        if aside:
            self.aside[node_id, card.card.index] = card
        else:
            self.aside.pop((node_id, card.card.index), None)
        self.grown[node_id] = None
        self.note(node_id)

    def note(self, node_id: NodeId) -> None:
        """Remember that what could be had from a node is another than before."""
        self.num_changes += 1
        self.changes.append(node_id)
        room = self.nodes.get(node_id)
        if room is not None:
            room.outlooks.clear()

    def changed_since(self, num_changes: int) -> Iterable[NodeId] | None:
        """Nodes noted after a value of `num_changes`; None when that is too long ago."""
        num = self.num_changes - num_changes
        if num > len(self.changes):
            return None
        return dict.fromkeys(islice(reversed(self.changes), num))

    def tally(self, pool: Pool, size: Size) -> Tally:
        """The tally of one size of share; counted at the first question, then kept up to date."""
        tally = pool.tallies.get(size)
        if tally is None:
            if len(pool.tallies) >= MAX_TALLIES:
                del pool.tallies[next(iter(pool.tallies))]
            tally = pool.tallies[size] = Tally()
            for order in pool.num_cards:
                for card in self.by_order[order].cards.values():
                    if card.pool is pool and card.has_room(size):
                        tally.shift(order, 1)
        return tally

    def cards(self) -> Iterator[CardRoom]:
        """Every card, in the order in which nodes joined."""
        for room in self.nodes.values():
            yield from room.cards.values()

    def check(self) -> None:
        """Recount everything from the shares; for tests and simulations.

        Raises:
            AssertionError: the ledger gives something twice or its index is wrong.
        """
        for room in self.nodes.values():
            shares = [(run, share) for run, held in room.runs.items() for share in held]
            free = room.node.num_cpus - sum(share.num_cpus for _, share in shares)
            assert abs(free - room.free_cpus) < 1e-6, f"{room.node.node_id}: CPUs"
            ram = ram_of(room.node) - sum(share.host_bytes for _, share in shares)
            assert ram == room.free_host_bytes, f"{room.node.node_id}: RAM"
            for index, card in room.cards.items():
                users = {run: s.memory_bytes for run, s in shares if s.card == index}
                assert users == card.users, f"{room.node.node_id}:{index}"
                assert sum(users.values()) == card.used_bytes
                assert card.used_bytes <= card.card.memory_bytes, "a byte is given twice"
                assert not card.is_whole or len(users) == 1, "a whole card is shared"
        for pool in self.pools.values():
            live = [c for c in self.cards() if c.pool is pool and not c.is_gone]
            entries = [(card.free_bytes, card.node.order, card.card.index) for card in live]
            assert pool.by_free == sorted(entries)
            for size, tally in pool.tallies.items():
                assert tally.num_cards == sum(card.has_room(size) for card in live)

    def _update(self, room: NodeRoom, card: Card) -> None:
        known = room.cards.get(card.index)
        if known is not None:
            if known.card == card and not known.is_gone:
                return
            self._unlist(known)  # may remove the pool, so the pool is looked up after it
        pool = self._pool((card.memory_bytes, card.name))
        if known is None:
            known = room.cards[card.index] = CardRoom(card=card, node=room, pool=pool)
        else:
            known.card, known.pool, known.is_gone = card, pool, False
        pool.num_cards[room.order] = pool.num_cards.get(room.order, 0) + 1
        _recount(known)
        if card.foreign_bytes:
            self.foreign[room.node.node_id, card.index] = known
        else:
            self.foreign.pop((room.node.node_id, card.index), None)

    def _retire(self, room: NodeRoom, index: int) -> None:
        card = room.cards[index]
        self._unlist(card)
        card.is_gone = True
        self.aside.pop((room.node.node_id, index), None)
        if not card.users:
            del room.cards[index]

    def _unlist(self, card: CardRoom) -> None:
        """Take a card out of its pool."""
        if card.is_gone:
            return
        pool, order = card.pool, card.node.order
        _shift(card, NOTHING)
        pool.leave(card)
        pool.num_cards[order] -= 1
        if not pool.num_cards[order]:
            del pool.num_cards[order]
        if not pool.num_cards:
            del self.pools[pool.kind]

    def _set_model(self, room: NodeRoom) -> None:
        counts: dict[Kind, int] = {}
        for card in room.cards.values():
            if not card.is_gone:
                counts[card.pool.kind] = counts.get(card.pool.kind, 0) + 1
        self._count_model(room.model, -1)
        room.model = (room.node.num_cpus, ram_of(room.node), tuple(sorted(counts.items())))
        self._count_model(room.model, 1)

    def _count_model(self, model: Model, by: int) -> None:
        self.models[model] = self.models.get(model, 0) + by
        if self.models[model] <= 0:
            del self.models[model]
        self.most_cards = max((sum(n for _, n in kinds) for _, _, kinds in self.models), default=0)

    def _pool(self, kind: Kind) -> Pool:
        pool = self.pools.get(kind)
        if pool is None:
            pool = self.pools[kind] = Pool(kind)
        return pool

    def _set_cpus(self, room: NodeRoom, free_cpus: float) -> None:
        del self.by_free_cpus[bisect_left(self.by_free_cpus, (room.free_cpus, room.order))]
        room.free_cpus = round(free_cpus, 6)  # sums of fractions must come back to where they were
        insort(self.by_free_cpus, (room.free_cpus, room.order))


def _recount(card: CardRoom) -> None:
    """A card has changed, or is new."""
    if not card.is_gone:
        card.pool.changed(card)
        _shift(card, card.free)


def _shift(card: CardRoom, after: Free) -> None:
    """Bring the tallies up to date, touching only those whose answer is another."""
    before, card.counted = card.counted, after
    order = card.node.order
    step = 1 if after[0] > before[0] else -1
    low, high = (before[0], after[0]) if step > 0 else (after[0], before[0])
    for size, tally in card.pool.tallies.items():
        if size is None:
            if before[1] != after[1]:
                tally.shift(order, 1 if after[1] else -1)
        elif low < size <= high:
            tally.shift(order, step)
