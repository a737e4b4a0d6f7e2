"""Cards that are not there yet: those of nodes that an autoscaler may bring."""

from collections.abc import Sequence

from orchestrator.client.access import Client
from orchestrator.types import Card, NodeType

__all__ = ["cards_to_come", "types_to_come"]


def types_to_come(client: Client) -> tuple[NodeType, ...]:
    """What nodes an autoscaler may bring to the driver that runs, else to the last one."""
    if not client.is_there:
        return ()
    with client.store() as store:
        return store.node_types()


def cards_to_come(types: Sequence[NodeType]) -> tuple[Card, ...]:
    """A card of every kind that nodes of these types have; of those that may be."""
    return tuple(
        Card(
            index=index,
            name=each.gpu,
            memory_bytes=each.memory_bytes,
            is_emulated=each.is_emulated,
        )
        for index, each in enumerate(types)
        if each.num_cards and each.max_nodes
    )
