"""One card and what is left of it; cards of one kind, indexed by what they have left."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.types import Bytes, Card, Node, RunId, Share

__all__ = ["CardRoom", "Kind", "Model", "NodeRoom", "Pool", "Size", "Tally"]

Kind: TypeAlias = tuple[Bytes, str]  # memory first: smaller cards sort, and are tried, first
Size: TypeAlias = Bytes | None  # bytes of a card, or a whole card
Model: TypeAlias = tuple[float, tuple[tuple[Kind, int], ...]]  # CPUs, cards of each kind

# A desktop shows its picture with some of the card; a training by someone else holds far more.
FOREIGN_TOLERANCE = 0.1  # of the card's memory, and the card still counts as unused


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

    @property
    def free_bytes(self) -> Bytes:
        """Bytes that a further share may take; below zero when foreign processes grew."""
        if self.is_whole or self.is_gone:
            return 0
        return self.card.memory_bytes - self.card.foreign_bytes - self.used_bytes

    def has_room(self, size: Size, *, leaving: frozenset[RunId] = frozenset()) -> bool:
        """True when a share of this size fits, once the runs `leaving` are gone."""
        if self.is_gone:
            return False
        staying = [run_id for run_id in self.users if run_id not in leaving] if leaving else None
        num_users = len(self.users) if staying is None else len(staying)
        if size is None:
            limit = self.card.memory_bytes * FOREIGN_TOLERANCE
            return num_users == 0 and self.card.foreign_bytes <= limit
        if staying is None:
            return self.free_bytes >= size
        if self.is_whole and staying:
            return False
        used = sum(self.users[run_id] for run_id in staying)
        return self.card.memory_bytes - self.card.foreign_bytes - used >= size


@dataclass(slots=True, eq=False)
class NodeRoom:
    """One node: its cards, its CPUs, and the runs on it."""

    node: Node
    order: int
    cards: dict[int, CardRoom] = field(default_factory=dict)
    free_cpus: float = 0.0
    runs: dict[RunId, list[Share]] = field(default_factory=dict)
    model: "Model" = (0.0, ())


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
        self.by_free: list[tuple[Bytes, int, int]] = []  # free bytes, node order, card index
        self.num_cards: dict[int, int] = {}  # node order -> cards of this kind
        self.tallies: dict[Size, Tally] = {}

    @property
    def name(self) -> str:
        """What NVML calls the card."""
        return self.kind[1]

    @property
    def memory_bytes(self) -> Bytes:
        """Memory of each card."""
        return self.kind[0]
