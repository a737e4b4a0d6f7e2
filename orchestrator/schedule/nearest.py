"""Which nodes to keep for a run that waited too long: those that are nearest to holding it."""

from collections.abc import Iterable

from orchestrator.schedule.asks import Ask, Route, within_host
from orchestrator.schedule.cards import NodeRoom, Pool, ram_of
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.placement import IsOpen, fullest
from orchestrator.types import DeviceKind, NodeId

__all__ = ["nearest"]


def nearest(ask: Ask, route: Route, ledger: Ledger, is_open: IsOpen) -> tuple[NodeId, ...]:
    """The nodes that could hold the ask when empty and have the most room for it now.

    Args:
        ask: What waits.
        route: The cards that could hold it.
        ledger: What is left of them.
        is_open: False for a node that is kept for somebody who goes before.

    Returns:
        Nodes that together could hold the ask; none when no open ones could.
    """
    if ask.device is DeviceKind.CPU:
        for _, order in reversed(ledger.by_free_cpus):
            room = ledger.by_order[order]
            if not is_open(room):
                continue
            if room.node.num_cpus >= ask.cpus and ram_of(room.node) >= ask.ram:
                return (room.node.node_id,)
        return ()
    if route.is_mixed:
        rooms = ((room, 0) for room in ledger.nodes.values() if is_open(room))
        return _collect(ask, route, route.pools, rooms)[0]
    options = (
        _collect(
            ask,
            route,
            (pool,),
            (entry for entry in fullest(ask, pool, ledger) if is_open(entry[0])),
        )
        for pool in route.pools
    )
    return max(options, key=lambda option: option[1], default=((), -1))[0]


def _collect(
    ask: Ask, route: Route, pools: tuple[Pool, ...], rooms: Iterable[tuple[NodeRoom, int]]
) -> tuple[tuple[NodeId, ...], int]:
    """The first nodes that together could hold the ask, and the workers that fit there now."""
    kept: list[NodeId] = []
    missing, fitting = ask.num_workers, 0
    for room, num in rooms:
        could = sum(pool.num_cards.get(room.order, 0) for pool in pools)
        could = within_host(ask, could, room.node.num_cpus, ram_of(room.node))
        if could >= ask.num_workers or (route.is_spread and could):
            kept.append(room.node.node_id)
            missing, fitting = missing - could, fitting + num
            if missing <= 0:
                return tuple(kept), fitting
    return (), -1
