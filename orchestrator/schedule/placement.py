"""Where a gang goes: whole or not at all, on one node where a node can hold it, best fit.

The rules, in this order:

1. Cards of one gang are of one kind, unless no kind alone could ever hold it.
2. A gang that some node of the cluster could hold alone goes to one node; only a larger one, or
   one that may be, is spread, over as few nodes as possible.
3. The smallest card that is large enough, and on it the tightest fit, so that room for large
   gangs stays in one piece.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile

from orchestrator.schedule.asks import Ask, Route, matches, within_host
from orchestrator.schedule.cards import CardRoom, NodeRoom, Pool
from orchestrator.schedule.ledger import Ledger
from orchestrator.types import Bytes, DeviceKind, Placement, Share

__all__ = ["IsOpen", "find", "find_on", "fullest", "placement_on"]

IsOpen = Callable[[NodeRoom], bool]


def placement_on(card: CardRoom, ask: Ask) -> Placement:
    """A gang of one on a card that has room for it."""
    return Placement((_share(card, ask),))


def find(ask: Ask, route: Route, ledger: Ledger, is_open: IsOpen) -> Placement | None:
    """Room for the whole gang on nodes that are open to it, or None."""
    if route.reason is not None:
        return None
    if ask.device is DeviceKind.CPU:
        return _find_cpus(ask, ledger, is_open)
    if route.is_mixed:
        return _find_mixed(ask, route, ledger, is_open)
    for pool in route.pools:
        chosen = _in_pool(ask, route, pool, ledger, is_open)
        if chosen:
            return Placement(tuple(_share(card, ask) for card in chosen))
    return None


def _in_pool(ask: Ask, route: Route, pool: Pool, ledger: Ledger, is_open: IsOpen) -> list[CardRoom]:
    if route.is_spread:
        return _spread(ask, pool, ledger, is_open)
    if ask.num_workers == 1 and ask.size is not None:
        return _tightest_card(ask, ask.size, pool, ledger, is_open)
    chosen = _tightest_node(ask, pool, ledger, is_open)
    if not chosen and ask.may_spread:
        return _spread(ask, pool, ledger, is_open)
    return chosen


def _tightest_card(
    ask: Ask, size: Bytes, pool: Pool, ledger: Ledger, is_open: IsOpen
) -> list[CardRoom]:
    by_free, is_counted = pool.by_free, ask.is_host_counted
    for at in range(bisect_left(by_free, (size,)), len(by_free)):
        _, order, index = by_free[at]
        room = ledger.by_order[order]
        if (not is_counted or _has_host(ask, room)) and is_open(room):
            return [room.cards[index]]
    return []


def _tightest_node(ask: Ask, pool: Pool, ledger: Ledger, is_open: IsOpen) -> list[CardRoom]:
    tally, is_counted = ledger.tally(pool, ask.size), ask.is_host_counted
    for count in sorted(tally.orders):
        if count >= ask.num_workers:
            for order in tally.orders[count]:
                room = ledger.by_order[order]
                if (not is_counted or _has_host(ask, room)) and is_open(room):
                    return _tightest_cards(room, ask, pool, ask.num_workers)
    return []


def _spread(ask: Ask, pool: Pool, ledger: Ledger, is_open: IsOpen) -> list[CardRoom]:
    if ledger.tally(pool, ask.size).num_cards < ask.num_workers:
        return []
    rooms = (entry for entry in fullest(ask, pool, ledger) if is_open(entry[0]))
    return _gather(ask, pool, takewhile(lambda entry: entry[1] > 0 or ask.is_host_counted, rooms))


def fullest(ask: Ask, pool: Pool, ledger: Ledger) -> Iterator[tuple[NodeRoom, int]]:
    """Nodes with cards of a pool and the workers that fit now, most first; none fit on the last."""
    tally = ledger.tally(pool, ask.size)
    for count in sorted(tally.orders, reverse=True):
        for order in tuple(tally.orders[count]):
            room = ledger.by_order[order]
            yield room, within_host(ask, count, room.free_cpus, room.free_host_bytes)
    for order in tuple(pool.num_cards):
        if order not in tally.count:
            yield ledger.by_order[order], 0


def _gather(ask: Ask, pool: Pool | None, rooms: Iterable[tuple[NodeRoom, int]]) -> list[CardRoom]:
    """Take the nodes with the most room first, and for the rest the node that it fits tightest."""
    chosen: list[CardRoom] = []
    last: NodeRoom | None = None
    last_num = 0
    for room, num in rooms:
        missing = ask.num_workers - len(chosen)
        if num >= missing and (last is None or num < last_num):
            last, last_num = room, num  # enough for the rest; another node may fit it tighter
        if num == missing or (0 < num < missing and last is not None):
            break
        if 0 < num < missing:
            chosen += _tightest_cards(room, ask, pool, num)
    if last is not None:
        chosen += _tightest_cards(last, ask, pool, ask.num_workers - len(chosen))
    return chosen if len(chosen) == ask.num_workers else []


def find_on(
    ask: Ask, route: Route, rooms: Iterable[NodeRoom], ledger: Ledger, is_open: IsOpen
) -> Placement | None:
    """As `find`, when it is known that nothing but these nodes can have got room."""
    if route.reason is not None:
        return None
    rooms = list(rooms)
    is_spread = route.is_spread or (ask.may_spread and ask.num_workers > 1)
    if ask.device is DeviceKind.CPU or route.is_mixed or is_spread:
        return find(ask, route, ledger, is_open) if any(map(is_open, rooms)) else None
    wanted, is_counted = ask.num_workers, ask.is_host_counted
    for pool in route.pools:
        tally = ledger.tally(pool, None) if ask.size is None else pool.tallies.get(ask.size)
        num_fitting = pool.num_cards if tally is None else tally.count  # at most so many
        for room in rooms:
            if num_fitting.get(room.order, 0) < wanted:
                continue
            if is_counted and not _has_host(ask, room):
                continue
            cards = _tightest_cards(room, ask, pool, wanted) if is_open(room) else []
            if len(cards) == wanted:
                return Placement(tuple(_share(card, ask) for card in cards))
    return None


def _has_host(ask: Ask, room: NodeRoom) -> bool:
    """True when the whole gang finds its CPUs and its RAM on the node."""
    return room.free_cpus >= ask.cpus and room.free_host_bytes >= ask.ram


def _tightest_cards(room: NodeRoom, ask: Ask, pool: Pool | None, num: int) -> list[CardRoom]:
    fitting = [
        card
        for card in room.cards.values()
        if (card.pool is pool if pool else matches(ask, card.pool)) and card.has_room(ask.size)
    ]
    fitting.sort(key=lambda card: (card.free_bytes, card.card.index))
    return fitting[:num]


def _find_mixed(ask: Ask, route: Route, ledger: Ledger, is_open: IsOpen) -> Placement | None:
    rooms = [
        (
            room,
            within_host(
                ask,
                len(_tightest_cards(room, ask, None, ask.num_workers)),
                room.free_cpus,
                room.free_host_bytes,
            ),
        )
        for room in ledger.nodes.values()
        if is_open(room)
    ]
    if route.is_spread:
        rooms.sort(key=lambda entry: (-entry[1], entry[0].order))
        chosen = _gather(ask, None, iter(rooms))
    else:
        fitting = [entry for entry in rooms if entry[1] >= ask.num_workers]
        if not fitting:
            return None
        room = min(fitting, key=lambda entry: (entry[1], entry[0].order))[0]
        chosen = _tightest_cards(room, ask, None, ask.num_workers)
    return Placement(tuple(_share(card, ask) for card in chosen)) if chosen else None


def _find_cpus(ask: Ask, ledger: Ledger, is_open: IsOpen) -> Placement | None:
    by_free = ledger.by_free_cpus
    for at in range(bisect_left(by_free, (ask.cpus,)), len(by_free)):
        room = ledger.by_order[by_free[at][1]]
        if room.free_host_bytes >= ask.ram and is_open(room):
            share = Share(
                node_id=room.node.node_id,
                card=None,
                memory_bytes=ask.size or 0,
                num_cpus=ask.num_cpus,
                host_bytes=ask.host_bytes,
            )
            return Placement((share,) * ask.num_workers)
    return None


def _share(card: CardRoom, ask: Ask) -> Share:
    return Share(
        node_id=card.node.node.node_id,
        card=card.card.index,
        memory_bytes=card.free_bytes if ask.size is None else ask.size,
        num_cpus=ask.num_cpus,
        host_bytes=ask.host_bytes,
    )
