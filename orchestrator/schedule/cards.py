"""One card and what is left of it; cards of one kind, indexed by what they have left."""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.selectors import Selector, admits
from orchestrator.types import Bytes, Card, Node, RunId, Share

__all__ = [
    "NOTHING",
    "CardRoom",
    "Free",
    "Kind",
    "Model",
    "NodeRoom",
    "Outlook",
    "Pool",
    "Size",
    "Tally",
    "ram_of",
]

Kind: TypeAlias = tuple[Bytes, str]  # memory first: smaller cards sort, and are tried, first
Size: TypeAlias = Bytes | None  # bytes of a card, or a whole card
Model: TypeAlias = tuple[float, Bytes, tuple[tuple[Kind, int], ...]]  # CPUs, RAM, cards by kind
Free: TypeAlias = tuple[Bytes, bool]  # free bytes of a card, and whether it is free as a whole

NOTHING: Free = (-1, False)
# A desktop shows its picture with some of the card; a training by someone else holds far more.
FOREIGN_TOLERANCE = 0.1  # of the card's memory, and the card still counts as unused
FEW = 16  # up to such a part of a pool, changed cards are moved one by one
NO_LIMIT: Bytes = 1 << 62  # RAM of a node that did not tell: more than anybody asks for


def ram_of(node: Node) -> Bytes:
    """RAM that the workers on a node may take together."""
    return node.host_bytes or NO_LIMIT


@dataclass(slots=True, eq=False)
class CardRoom:
    """One card and what is left of it."""

    card: Card
    node: "NodeRoom"
    pool: "Pool"
    used_bytes: Bytes = 0
    users: dict[RunId, Bytes] = field(default_factory=dict)  # a run has one rank per card
    is_whole: bool = False  # taken as a whole: nobody shares it
    is_gone: bool = False  # no longer reported by its node
    aside: str = ""  # why nothing new may come here; see `schedule.health`
    is_on_trial: bool = False  # it was put aside, and is tried with one run
    listed: "_Entry | None" = None  # how the pool's order of free bytes holds it
    counted: Free = NOTHING  # how the pool's tallies count it

    @property
    def free_bytes(self) -> Bytes:
        """Bytes that a further share may take; below zero when foreign processes grew."""
        if self.is_whole or self.is_gone or self.aside or (self.is_on_trial and self.users):
            return 0
        return self.card.memory_bytes - self.card.foreign_bytes - self.used_bytes

    @property
    def free(self) -> Free:
        """Free bytes, and whether it is free as a whole: what tallies count of it."""
        return NOTHING if self.is_gone else (self.free_bytes, self.has_room(None))

    def without(self, leaving: frozenset[RunId]) -> tuple[Bytes, bool]:
        """Bytes that a share may take once some runs are gone, and if the whole card is free."""
        card, used = self.card, 0
        is_used = False
        for run_id, size in self.users.items():
            if run_id not in leaving:
                used += size
                is_used = True
        if self.aside or (is_used and (self.is_whole or self.is_on_trial)):
            return -1, False
        is_free = not is_used and card.foreign_bytes <= card.memory_bytes * FOREIGN_TOLERANCE
        return card.memory_bytes - card.foreign_bytes - used, is_free

    def has_room(self, size: Size, *, leaving: frozenset[RunId] = frozenset()) -> bool:
        """True when a share of this size fits, once the runs `leaving` are gone."""
        if self.is_gone or self.aside:
            return False
        staying = [run_id for run_id in self.users if run_id not in leaving] if leaving else None
        num_users = len(self.users) if staying is None else len(staying)
        if size is None:
            limit = self.card.memory_bytes * FOREIGN_TOLERANCE
            return num_users == 0 and self.card.foreign_bytes <= limit
        if staying is None:
            return self.free_bytes >= size
        if (self.is_whole or self.is_on_trial) and staying:
            return False
        used = sum(self.users[run_id] for run_id in staying)
        return self.card.memory_bytes - self.card.foreign_bytes - used >= size


@dataclass(slots=True, eq=False)
class NodeRoom:
    """One node: its cards, its CPUs and RAM, and the runs on it."""

    node: Node
    order: int
    cards: dict[int, CardRoom] = field(default_factory=dict)
    free_cpus: float = 0.0
    free_host_bytes: Bytes = 0
    runs: dict[RunId, list[Share]] = field(default_factory=dict)
    model: "Model" = (0.0, 0, ())
    aside: str = ""  # why nothing new may come here, on no card and no CPU
    is_on_trial: bool = False
    outlooks: dict[int, "Outlook"] = field(default_factory=dict)  # priority -> kept until a change

    @property
    def is_open(self) -> bool:
        """False while the node is put aside, and while it is tried with one run."""
        return not self.aside and not (self.is_on_trial and self.runs)

    def admits(self, selector: Selector) -> bool:
        """True when the node has the labels that a run asks for."""
        return not selector or admits(selector, self.node.labels)

    def host_without(self, gone: Iterable[RunId]) -> tuple[float, Bytes]:
        """CPUs and bytes of RAM that are free once some runs are gone."""
        cpus, ram = self.free_cpus, self.free_host_bytes
        for run_id in gone:
            for share in self.runs.get(run_id, ()):
                cpus += share.num_cpus
                ram += share.host_bytes
        return cpus, ram


class Outlook:
    """What a node could hold if those left who are leaving, or may be asked to by a priority.

    Args:
        room: The node.
        leaving: Runs on it that will be gone within the yield grace.
        lower: Runs on it that may be asked to leave, in the order in which they would be.
    """

    __slots__ = ("_cards", "_host", "_room", "gone", "leaving", "lower", "served")

    def __init__(self, room: NodeRoom, leaving: frozenset[RunId], lower: tuple[RunId, ...]) -> None:
        self.leaving, self.lower = leaving, lower
        self.gone = leaving.union(lower) if lower else leaving
        self.served: dict[Hashable, int] = {}  # workers that fit after others; asked many times
        self._room = room
        self._cards: _Free | None = None  # counted at the first question
        self._host: tuple[float, Bytes] | None = None

    def num_cards(self, pool: "Pool", size: Size) -> int:
        """Cards of a pool with room for a share of this size."""
        cards = self._count() if self._cards is None else self._cards
        free, num_whole = cards.get(pool, ((), 0))
        return num_whole if size is None else len(free) - bisect_left(free, size)

    def pools(self) -> Iterable["Pool"]:
        """The kinds of cards of the node."""
        return self._count() if self._cards is None else self._cards

    @property
    def host(self) -> tuple[float, Bytes]:
        """Free CPUs and RAM of the node."""
        if self._host is None:
            self._host = self._room.host_without(self.gone)
        return self._host

    def _count(self) -> "_Free":
        found: dict[Pool, tuple[list[Bytes], int]] = {}
        for card in self._room.cards.values():
            if not card.is_gone:
                free, num_whole = found.get(card.pool, ([], 0))
                num_bytes, is_whole = card.without(self.gone)
                free.append(num_bytes)
                found[card.pool] = (free, num_whole + is_whole)
        for free, _ in found.values():
            free.sort()
        self._cards = found
        return found


class Tally:
    """For one size of share: how many cards of each node have room, and nodes by that number."""

    def __init__(self) -> None:
        self.count: dict[int, int] = {}  # node order -> cards with room
        self.orders: dict[int, list[int]] = {}  # cards with room -> node orders, sorted
        self.num_cards = 0

    def shift(self, order: int, by: int) -> None:
        """Change a node's number of cards with room."""
        before = self.count.get(order, 0)
        after = before + by
        if before:
            orders = self.orders[before]
            del orders[bisect_left(orders, order)]
            if not orders:
                del self.orders[before]
        if after:
            self.count[order] = after
            insort(self.orders.setdefault(after, []), order)
        else:
            del self.count[order]
        self.num_cards += by


class Pool:
    """All cards of one kind (name and memory)."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._by_free: list[_Entry] = []
        self._stale: dict[CardRoom, None] = {}  # cards that stand where they were before
        self.num_cards: dict[int, int] = {}  # node order -> cards of this kind
        self.tallies: dict[Size, Tally] = {}

    @property
    def by_free(self) -> "list[_Entry]":
        """Every card by free bytes, node order and index.

        Brought up to date when it is asked for: most cards are taken and given back as wholes,
        which are counted elsewhere, between two questions.
        """
        if self._stale:
            self._sort()
        return self._by_free

    def changed(self, card: CardRoom) -> None:
        """A card is new here, or has other bytes free than before."""
        self._stale[card] = None

    def leave(self, card: CardRoom) -> None:
        """A card belongs to this pool no more."""
        self._stale.pop(card, None)
        if card.listed is not None:
            del self._by_free[bisect_left(self._by_free, card.listed)]
            card.listed = None

    def _sort(self) -> None:
        old: list[_Entry] = []
        new: list[_Entry] = []
        for card in self._stale:
            entry = (card.free_bytes, card.node.order, card.card.index)
            if entry != card.listed:
                if card.listed is not None:
                    old.append(card.listed)
                card.listed = entry
                new.append(entry)
        self._stale.clear()
        by_free = self._by_free
        if len(new) * FEW > len(by_free):
            gone = set(old)
            self._by_free = sorted([*(e for e in by_free if e not in gone), *new])
            return
        for entry in old:
            del by_free[bisect_left(by_free, entry)]
        for entry in new:
            insort(by_free, entry)

    @property
    def name(self) -> str:
        """What NVML calls the card."""
        return self.kind[1]

    @property
    def memory_bytes(self) -> Bytes:
        """Memory of each card."""
        return self.kind[0]


_Entry: TypeAlias = tuple[Bytes, int, int]  # free bytes, node order, card index
_Free: TypeAlias = Mapping[Pool, tuple[Sequence[Bytes], int]]  # sorted bytes, whole cards
