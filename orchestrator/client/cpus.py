"""The CPUs that runs with `cpus: auto` are counted with: their loading processes and training."""

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.client.access import Client
from orchestrator.client.coming import types_to_come
from orchestrator.client.machine import cpu_count
from orchestrator.client.names import fingerprint
from orchestrator.client.series import Order, bare
from orchestrator.schedule.asks import is_kind
from orchestrator.selectors import admits
from orchestrator.types import Card, DeviceKind, Node, NodeId, NodeType, RunSpec

__all__ = ["cards_for", "counted", "hosts_of", "is_counted", "with_cpus"]

_STEP = 100  # a CPU is given in hundredths, rounded down so that all parts of a node fit on it


def hosts_of(client: Client, cards: Sequence[Card]) -> tuple[Node, ...]:
    """Where runs may be put: nodes of the driver that runs and those that may come, or this one.

    Args:
        client: Of the store.
        cards: Of this machine, as a driver would have them that is started here.
    """
    nodes = client.nodes() if client.driver() is not None else ()
    if not nodes:
        return (Node(node_id=NodeId("this-machine"), cards=tuple(cards), num_cpus=cpu_count()),)
    coming = (each for each in types_to_come(client) if each.max_nodes)
    return (*nodes, *map(_as_node, coming))


def cards_for(spec: RunSpec, client: Client, cards: Sequence[Card]) -> tuple[Card, ...]:
    """Cards of nodes where a run may be by its labels; all where none is known to have them.

    Args:
        spec: The run.
        client: Of the store.
        cards: Where any run may be put.
    """
    if not spec.labels:
        return tuple(cards)
    hosts = _admitting(spec, hosts_of(client, cards))
    return tuple(card for host in hosts for card in host.cards) or tuple(cards)


def _admitting(spec: RunSpec, hosts: Sequence[Node]) -> tuple[Node, ...]:
    selector = tuple(spec.labels.items())
    return tuple(host for host in hosts if admits(selector, host.labels))


def is_counted(order: Order) -> bool:
    """True when the CPUs of a new run are to be found out."""
    return order.continues is None and order.project.fitting.is_cpus_auto


def with_cpus(order: Order, hosts: Sequence[Node]) -> Order:
    """The order with the CPUs that its run is counted with, as `counted` says.

    Args:
        order: What is asked for, planned: its share of a card is known.
        hosts: Nodes where it may be put.
    """
    if not is_counted(order):
        return order
    spec, remark = counted(order.spec, hosts)
    asked = fingerprint(bare(order.spec))
    return replace(order, spec=replace(spec, asked=asked), remarks=(*order.remarks, remark))


def counted(spec: RunSpec, hosts: Sequence[Node]) -> tuple[RunSpec, str]:
    """The run with its CPUs and loading processes, and both in words.

    One CPU for each loading process and one for the training, but no more than its part of every
    node where it may be put: the CPUs of the node by its cards, and of a card's by the share of
    the card's memory. So all that the cards hold at once can start, and each run may go wherever
    its cards are. Where the part is less, there are fewer loading processes, at least one.

    Args:
        spec: The run; its share of a card is known.
        hosts: Nodes; those that could never hold it do not count.
    """
    wanted, settings = spec.settings.workers + 1.0, spec.settings
    hosts = _admitting(spec, hosts) or hosts
    parts = [(part, host) for host in hosts if (part := _part(spec, host)) is not None]
    cpus, scarce = min(parts, key=lambda each: each[0], default=(wanted, None))
    cpus = min(cpus, wanted)
    workers = min(settings.workers, max(1, int(cpus) - 1))
    remark = f"{cpus:g} CPUs are counted, for {_processes(workers)} and the training"
    if scarce is not None and cpus < wanted:
        had = f"{scarce.num_cpus:g} CPUs"
        if spec.device is DeviceKind.GPU:
            had += f" for {len(scarce.cards)} card{'s' * (len(scarce.cards) != 1)}"
        remark += f": {settings.workers} were asked for, {scarce.node_id} has {had}"
    return replace(spec, num_cpus=cpus, settings=replace(settings, workers=workers)), remark


def _part(spec: RunSpec, host: Node) -> float | None:
    """CPUs of a worker on a node; None where no card of the node could hold one."""
    if spec.device is DeviceKind.CPU:
        return host.num_cpus or None
    sizes = [card.memory_bytes for card in host.cards if _may_hold(spec, card)]
    if not sizes:
        return None
    share = 1.0 if spec.memory_bytes is None else spec.memory_bytes / max(sizes)
    return math.floor(host.num_cpus / len(host.cards) * share * _STEP) / _STEP or None


def _may_hold(spec: RunSpec, card: Card) -> bool:
    is_allowed = not spec.gpu_types or any(is_kind(name, card.name) for name in spec.gpu_types)
    return is_allowed and card.memory_bytes >= (spec.memory_bytes or 0)


def _as_node(kind: NodeType) -> Node:
    cards = tuple(
        Card(
            index=index,
            name=kind.gpu,
            memory_bytes=kind.memory_bytes,
            is_emulated=kind.is_emulated,
        )
        for index in range(kind.num_cards)
    )
    name = NodeId(kind.name)
    return Node(node_id=name, cards=cards, num_cpus=kind.num_cpus, labels=kind.labels)


def _processes(workers: int) -> str:
    return f"{workers} loading process{'es' * (workers != 1)}"
