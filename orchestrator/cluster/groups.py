"""Bundles of cards: one placement group a node, one bundle a card, shares of a bundle in units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.types import AttemptId, Bytes, Card, Node, NodeId, Seconds, Share

__all__ = ["UNITS", "CardGroups", "UnitLedger", "bundle_of_cards", "units_of"]

UNITS = 10_000  # Ray counts resources in steps of 1e-4
# Units kept for attempts that may still come while a card has bytes left, one each. A process on
# a card takes some 250 MB for its context alone, so that a card of 180 GB holds 720 at most.
_KEPT = 1_000
_IDLE_SECONDS: Seconds = (
    10.0  # a run that follows at once finds the group; an autoscaler waits more
)


def units_of(budget: Bytes, total: Bytes) -> int:
    """The share of a card in units of 1e-4, rounded up, at least one and at most all."""
    return min(UNITS, max(1, -(-budget * UNITS // total)))


class UnitLedger:
    """Units of every card that attempts hold, so that what fits in bytes fits in units.

    Bytes are counted by the scheduler; units only make Ray put a worker on the card that was
    chosen and show what is taken. So a share is rounded up where units are left, and gets fewer
    where they are scarce, but never none: without a unit a worker sees no card.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[NodeId, int], dict[AttemptId, tuple[int, Bytes]]] = {}

    def take(self, attempt: AttemptId, share: Share, card: Card) -> int:
        """Note what an attempt takes of a card, in units.

        Three thirds of a card are 3334 + 3334 + 3332. While bytes are left, units are left too,
        for up to 1000 attempts of whatever size. What does not fit in bytes asks for more units
        than are left, and Ray lets it wait.
        """
        held = self._held.setdefault((share.node_id, card.index), {})
        units = units_of(share.memory_bytes, card.memory_bytes)
        rest = UNITS - sum(num for num, _ in held.values())
        left = card.memory_bytes - share.memory_bytes - sum(size for _, size in held.values())
        if left < 0:
            units = max(units, min(rest + 1, UNITS))
        else:
            units = max(1, min(units, rest - min(left, _KEPT)))
        held[attempt] = (units, share.memory_bytes)
        return units

    def give_back(self, attempt: AttemptId) -> None:
        """Forget what an attempt held."""
        for held in self._held.values():
            held.pop(attempt, None)

    def held(self, node_id: NodeId, card: int | None) -> int:
        """Units of a card that attempts hold."""
        held = self._held.get((node_id, card), {}) if card is not None else {}
        return sum(units for units, _ in held.values())

    def is_idle(self, node_id: NodeId) -> bool:
        """True when no attempt holds any card of the node."""
        return not any(held for (owner, _), held in self._held.items() if owner == node_id)


def bundle_of_cards(
    cards: tuple[Card, ...], accelerators: tuple[tuple[str, ...], ...]
) -> Mapping[int, int]:
    """Which bundle holds which card: card index to bundle index.

    Args:
        cards: The cards of the node.
        accelerators: What a process in each bundle saw: indices or UUIDs, as Ray counts them.
    """
    names = {name: card.index for card in cards for name in (str(card.index), card.uuid) if name}
    return {
        names[seen[0]]: bundle
        for bundle, seen in enumerate(accelerators)
        if len(seen) == 1 and seen[0] in names
    }


@dataclass(slots=True)
class _Group:
    node: Node
    count: int
    group: Any
    bundles: Mapping[int, int] | None = None  # None until it is known
    probes: list[Any] = field(default_factory=list)
    idle_since: Seconds | None = None


class CardGroups:
    """The placement groups of the nodes that run gangs on cards.

    A group holds whole cards, so what our ledger decided is what happens: Ray puts a worker on the
    card that was chosen, and gives none of them to anybody else. It is made for the first gang on a
    node and removed when the node is idle, so that an autoscaler can release the node.
    """

    def __init__(self) -> None:
        self._groups: dict[NodeId, _Group] = {}
        self._units = UnitLedger()
        self._task = ray.remote(_accelerators)
        self.waited: dict[Any, NodeId] = {}

    def prepare(self, node: Node, ray_id: str, count: int) -> bool:
        """Begin to make the node's group of `count` GPUs; True when it is there already."""
        known = self._groups.get(node.node_id)
        if known is None:
            group = placement_group(
                [{"GPU": 1}] * count,
                strategy="STRICT_PACK",
                bundle_label_selector=[{"ray.io/node-id": ray_id}] * count,
            )
            self._groups[node.node_id] = _Group(node=node, count=count, group=group)
            self.waited[group.ready()] = node.node_id
            return False
        return known.bundles is not None

    def resolve(self, ref: Any) -> NodeId | None:
        """A waited ref is ready: the node whose group can now be used, or could not be made."""
        node_id = self.waited.pop(ref)
        known = self._groups[node_id]
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError:
            self.lose(node_id)
            return node_id
        if not known.probes and not _needs_probe(known):
            known.bundles = {card.index: place for place, card in enumerate(known.node.cards)}
            return node_id
        if not known.probes:
            self._probe(known)
            return None
        known.probes = [answer if probe is ref else probe for probe in known.probes]
        if any(not isinstance(probe, tuple) for probe in known.probes):
            return None
        known.bundles = bundle_of_cards(known.node.cards, tuple(known.probes))
        return node_id

    def is_pending(self, node_id: NodeId) -> bool:
        """True while the node's group is being made."""
        known = self._groups.get(node_id)
        return known is not None and known.bundles is None

    def has(self, node_id: NodeId, card: int) -> bool:
        """True when the card's bundle is known."""
        known = self._groups.get(node_id)
        return known is not None and known.bundles is not None and card in known.bundles

    def options(self, attempt: AttemptId, share: Share, card: Card) -> dict[str, Any]:
        """The options of an actor that takes the share, and note that it is taken."""
        known = self._groups[share.node_id]
        assert known.bundles is not None
        known.idle_since = None
        return {
            "num_gpus": self._units.take(attempt, share, card) / UNITS,
            "num_cpus": 0,  # said on purpose; the ledger counts the CPUs of a node
            "scheduling_strategy": _in_bundle(known.group, known.bundles[card.index]),
        }

    def least_options(self, node_id: NodeId, card: int) -> dict[str, Any]:
        """The options of an actor on a card that takes nothing of it."""
        known = self._groups[node_id]
        assert known.bundles is not None
        return {
            "num_gpus": 1 / UNITS,
            "num_cpus": 0,
            "scheduling_strategy": _in_bundle(known.group, known.bundles[card]),
        }

    def held(self, share: Share) -> float:
        """The part of a share's card that attempts hold at Ray."""
        return self._units.held(share.node_id, share.card) / UNITS

    def give_back(self, attempt: AttemptId) -> None:
        """The attempt is over."""
        self._units.give_back(attempt)

    def remove_idle(self, now: Seconds, needed: set[NodeId]) -> None:
        """Remove the groups of nodes that have been idle for a while and that no gang waits for."""
        for node_id, known in tuple(self._groups.items()):
            if node_id in needed or known.bundles is None or not self._units.is_idle(node_id):
                known.idle_since = None
            elif known.idle_since is None:
                known.idle_since = now
            elif now - known.idle_since >= _IDLE_SECONDS:
                self.remove(node_id)

    def remove(self, node_id: NodeId) -> None:
        """Give a node's cards back to Ray."""
        known = self._groups.get(node_id)
        if known is not None:
            remove_placement_group(known.group)
            self.lose(node_id)

    def lose(self, node_id: NodeId) -> None:
        """Forget a node's group."""
        self._groups.pop(node_id, None)
        self.waited = {ref: owner for ref, owner in self.waited.items() if owner != node_id}

    def close(self) -> None:
        """Remove every group."""
        for known in self._groups.values():
            remove_placement_group(known.group)
        self._groups.clear()
        self.waited.clear()

    def _probe(self, known: _Group) -> None:
        for place in range(known.count):
            ref = self._task.options(
                num_cpus=0,
                num_gpus=1 / UNITS,
                scheduling_strategy=_in_bundle(known.group, place),
            ).remote()
            known.probes.append(ref)
            self.waited[ref] = known.node.node_id


def _needs_probe(known: _Group) -> bool:
    """With one card there is no choice, and an emulated card is the same wherever it is."""
    return known.count > 1 and not all(card.is_emulated for card in known.node.cards)


def _in_bundle(group: Any, place: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)


def _accelerators() -> tuple[str, ...]:
    return tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get("GPU", ())))
