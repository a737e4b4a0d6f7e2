"""How the cluster stands as a whole: what queues have had, and which places are put aside."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.types import NodeId, Seconds

if TYPE_CHECKING:
    from orchestrator.schedule.scheduler import Scheduler

__all__ = ["STANDING", "Aside", "QueueStanding", "Standing", "standing"]


STANDING = "standing"
"""Under which name a store keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStanding:
    """One queue: its rule, the cards that it holds, and its rank: the least goes first."""

    name: str
    weight: float = 1.0
    max_gpus: float | None = None
    num_gpus: float = 0.0
    rank: float = 0.0  # worth-seconds over weight; see `schedule.fair`


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A card, or with `card` None a node, that takes nothing new; `until` None: until mended."""

    node_id: NodeId
    card: int | None
    why: str
    until: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a driver tells of the whole. `worth` is that of its average card."""

    queues: tuple[QueueStanding, ...] = ()
    aside: tuple[Aside, ...] = ()
    worth: float = 1.0


def standing(scheduler: "Scheduler", now: Seconds) -> Standing:
    """How things stand at `now`."""
    life = scheduler._life  # its own package: nothing here changes it
    names = dict.fromkeys(
        (*life.fair.rules, *(shape.queue for shape in life.queue.shapes.values()))
    )
    queues = []
    for name in names:
        rule = life.fair.rule(name)
        queues.append(
            QueueStanding(
                name=name,
                weight=rule.weight,
                max_gpus=rule.max_gpus,
                num_gpus=life.fair.num_gpus(name),
                rank=life.fair.rank(name, now),
            )
        )
    aside = [
        Aside(node_id=node_id, card=None, why=room.aside, until=life.health.opens_at(node_id, None))
        for node_id, room in life.ledger.nodes.items()
        if room.aside
    ]
    aside += [
        Aside(
            node_id=node_id,
            card=index,
            why=card.aside,
            until=life.health.opens_at(node_id, index),
        )
        for (node_id, index), card in life.ledger.aside.items()
        if not card.node.aside
    ]
    worths = [card.card.worth for card in life.ledger.cards()]
    worth = sum(worths) / len(worths) if worths else 1.0
    return Standing(queues=tuple(queues), aside=tuple(aside), worth=worth)
