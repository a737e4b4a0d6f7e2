"""What a node has free, or will have: filled with asks the way the scheduler fills nodes."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.schedule.asks import Ask, is_allowed, within_host
from orchestrator.schedule.cards import FOREIGN_TOLERANCE, NO_LIMIT, Kind, NodeRoom
from orchestrator.selectors import admits
from orchestrator.types import Bytes, DeviceKind, NodeId, NodeType, RunId

__all__ = ["Vacancy", "empty", "vacancy_of"]

_FreeCard: TypeAlias = tuple[Bytes, bool]  # free bytes; whether it may be taken as a whole


@dataclass(slots=True)
class Vacancy:
    """Free cards by kind, CPUs and RAM of one node."""

    cards: dict[Kind, list[_FreeCard]]
    cpus: float
    host_bytes: Bytes
    node_id: NodeId | None = None  # None for a node that is not there yet
    labels: Mapping[str, str] = field(default_factory=dict)

    def num_workers(self, ask: Ask, kind: Kind) -> int:
        """Workers of an ask that cards of one kind could hold now."""
        if not admits(ask.labels, self.labels):
            return 0
        fitting = len(_fitting(ask, self.cards[kind])) if is_allowed(ask, kind) else 0
        return within_host(ask, fitting, self.cpus, self.host_bytes)

    def take(self, ask: Ask) -> bool:
        """Put a whole gang here, on the smallest cards that do; False, and nothing, if it cannot.

        Cards of a gang are of one kind.
        """
        if ask.device is DeviceKind.CPU:
            is_short = self.cpus < ask.cpus or self.host_bytes < ask.ram
            if is_short or not admits(ask.labels, self.labels):
                return False
            self.cpus -= ask.cpus
            self.host_bytes -= ask.ram
            return True
        for kind in sorted(self.cards):
            if self.num_workers(ask, kind) >= ask.num_workers:
                self.take_workers(ask, kind, ask.num_workers)
                return True
        return False

    def take_workers(self, ask: Ask, kind: Kind, num: int) -> None:
        """Put so many workers on the cards of one kind that they fit tightest; they do fit."""
        cards = self.cards[kind]
        for place in _fitting(ask, cards)[:num]:
            free, _ = cards[place]
            cards[place] = (0 if ask.size is None else free - ask.size, False)
        self.cpus -= ask.num_cpus * num
        self.host_bytes -= ask.host_bytes * num


def _fitting(ask: Ask, cards: list[_FreeCard]) -> list[int]:
    """Places of the cards with room for a worker, the tightest first."""
    fitting = [
        place
        for place, (free, is_whole) in enumerate(cards)
        if (is_whole if ask.size is None else free >= ask.size)
    ]
    return sorted(fitting, key=lambda place: (cards[place][0], place))


def empty(kind: NodeType) -> Vacancy:
    """A new node of a type."""
    cards = {(kind.memory_bytes, kind.gpu): [(kind.memory_bytes, True)] * kind.num_cards}
    return Vacancy(
        cards if kind.num_cards else {},
        kind.num_cpus,
        kind.host_bytes or NO_LIMIT,
        labels=kind.labels,
    )


def vacancy_of(room: NodeRoom, gone: Container[RunId]) -> Vacancy:
    """What a node that is there will have once some of its runs are gone."""
    cards: dict[Kind, list[_FreeCard]] = {}
    for card in room.cards.values():
        if card.is_gone or card.aside:
            continue
        staying = [run_id for run_id in card.users if run_id not in gone]
        foreign = card.card.foreign_bytes
        free = card.card.memory_bytes - foreign - sum(card.users[run_id] for run_id in staying)
        if staying and (card.is_whole or card.is_on_trial):
            free = 0
        is_whole = not staying and foreign <= card.card.memory_bytes * FOREIGN_TOLERANCE
        cards.setdefault(card.pool.kind, []).append((free, is_whole))
    left = [run_id for run_id in room.runs if run_id in gone]
    cpus, host_bytes = room.host_without(left)
    return Vacancy(cards, cpus, host_bytes, room.node.node_id, room.node.labels)
