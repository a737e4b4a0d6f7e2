"""Which Ray nodes a machine becomes: one a kind of card, each with its part of CPUs and RAM."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from orchestrator.types import Bytes, Card

__all__ = ["CARDS_NAME", "NodePlan", "planned_nodes", "told_cards"]

# In the environment of a Ray node whose cards are emulated: what its driver would have told.
CARDS_NAME = "ORC_NODE_CARDS"
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One Ray node: cards of one kind, or none.

    Attributes:
        kind: The kind of card as a label; `cpu` without cards.
        cards: The cards; their indexes are those of the machine, or of the node where emulated.
        num_cpus: CPUs that runs on it may count on.
        memory_bytes: RAM that runs on it may count on.
        given: Labels that a person gave the machine.
    """

    kind: str
    cards: tuple[Card, ...]
    num_cpus: int
    memory_bytes: Bytes
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_emulated(self) -> bool:
        """True when its cards are emulated."""
        return any(card.is_emulated for card in self.cards)

    @property
    def labels(self) -> Mapping[str, str]:
        """What Ray's label selectors can ask for."""
        labels = {**self.given, "orc.card": self.kind}
        if self.cards:
            labels["orc.card-gib"] = str(round(self.cards[0].memory_bytes / 1024**3))
        if self.is_emulated:
            labels["orc.emulated"] = "true"
        return labels

    @property
    def environment(self) -> Mapping[str, str | None]:
        """Variables of the node's processes; None where one must not be set.

        An index counts as the driver counts them, in the order of the PCI bus.
        """
        if self.is_emulated:  # Ray refuses more GPUs than it makes visible
            told = json.dumps([asdict(card) for card in self.cards])
            return {"CUDA_VISIBLE_DEVICES": None, CARDS_NAME: told}
        if not self.cards:
            return {CARDS_NAME: None}
        visible = ",".join(str(card.index) for card in self.cards)
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": visible,
            CARDS_NAME: None,
        }


def planned_nodes(
    cards: Sequence[Card],
    num_cpus: int,
    memory_bytes: Bytes,
    labels: Mapping[str, str] | None = None,
) -> tuple[NodePlan, ...]:
    """One node a kind of card, in the order of their first cards; one without cards for none.

    CPUs and RAM are dealt out by the number of cards, at least one CPU each, because every Ray
    node would otherwise count all of the machine's.

    Args:
        cards: Of this machine, or emulated.
        num_cpus: CPUs of the machine.
        memory_bytes: RAM of the machine that runs may count on.
        labels: That every node of the machine gets.
    """
    given = labels or {}
    kinds: dict[tuple[str, Bytes, bool], list[Card]] = {}
    for card in cards:
        kinds.setdefault((card.name, card.memory_bytes, card.is_emulated), []).append(card)
    if not kinds:
        plan = NodePlan(
            kind="cpu", cards=(), num_cpus=num_cpus, memory_bytes=memory_bytes, given=given
        )
        return (plan,)
    plans, done = [], 0
    for (name, _, is_emulated), own in kinds.items():
        first, done = done, done + len(own)
        plans.append(
            NodePlan(
                kind=_NOT_IN_LABELS.sub("-", name).strip("-")[:63].strip("-") or "card",
                cards=tuple(_counted_anew(own) if is_emulated else own),
                num_cpus=max(1, _part(num_cpus, first, done, len(cards))),
                memory_bytes=_part(memory_bytes, first, done, len(cards)),
                given=given,
            )
        )
    return tuple(plans)


def told_cards(environ: Mapping[str, str]) -> tuple[Card, ...] | None:
    """The emulated cards of the Ray node whose processes have this environment; None for none."""
    told = environ.get(CARDS_NAME)
    return None if told is None else tuple(Card(**values) for values in json.loads(told))


def _counted_anew(cards: Sequence[Card]) -> list[Card]:
    return [Card(**{**asdict(card), "index": index}) for index, card in enumerate(cards)]


def _part(whole: int, first: int, last: int, of: int) -> int:
    """The part of cards `first` to `last`; the parts of all cards add up to the whole."""
    return whole * last // of - whole * first // of
