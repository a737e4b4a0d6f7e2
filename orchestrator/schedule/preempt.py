"""Whom to ask to leave so that a run of higher priority has room, and never more than needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.schedule.asks import Ask, Route, matches, within_cpus
from orchestrator.schedule.cards import CardRoom, NodeRoom, Pool
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import DeviceKind, NodeId, RunId

__all__ = ["Claim", "World", "choose", "will_fit"]

MAX_OPTIONS = 4  # nodes compared before the cheapest is taken; bounds the search on large clusters


@dataclass(frozen=True, slots=True)
class Claim:
    """Nodes on which room is made for a run, and the gangs that must leave for it."""

    nodes: tuple[NodeId, ...]
    victims: tuple[RunId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the choice looks at. `ahead` are claims on a node that go before the run's own."""

    runs: Mapping[RunId, RunRecord]
    nodes: Mapping[NodeId, NodeRoom]
    leaving: Mapping[RunId, None]
    ahead: Callable[[NodeRoom], Sequence[Ask]]


class _Imagined:
    """A node as it will be when some runs have left and others have come."""

    def __init__(self, room: NodeRoom, gone: frozenset[RunId]) -> None:
        self._gone = gone
        self._cards = list(room.cards.values())
        self._taken: dict[int, int] = {}  # card index -> bytes of those who come; -1 is all of it
        self._cpus = room.free_cpus + sum(
            share.num_cpus for run_id in gone for share in room.runs.get(run_id, ())
        )

    def come(self, ask: Ask, pool: Pool | None) -> int:
        """Let as many workers of an ask come as fit; returns their number."""
        most = within_cpus(ask.num_workers, self._cpus, ask)
        if ask.device is DeviceKind.CPU:
            num = most
        else:
            num = 0
            for card in self._cards:
                if num < most and self._fits(card, ask, pool):
                    taken = self._taken.get(card.card.index, 0)
                    self._taken[card.card.index] = -1 if ask.size is None else taken + ask.size
                    num += 1
        self._cpus -= num * ask.num_cpus
        return num

    def _fits(self, card: CardRoom, ask: Ask, pool: Pool | None) -> bool:
        if card.pool is not pool if pool else not matches(ask, card.pool):
            return False
        taken = self._taken.get(card.card.index, 0)
        if taken == 0:
            return card.has_room(ask.size, leaving=self._gone)
        if taken < 0 or ask.size is None:
            return False
        return card.has_room(ask.size + taken, leaving=self._gone)


def will_fit(record: RunRecord, route: Route, rooms: Iterable[NodeRoom], world: World) -> bool:
    """True when the run fits on these nodes once those have left who are leaving already."""
    rooms = list(rooms)
    wanted = record.ask.num_workers
    for pool in _pools(route):
        workers = (_workers(record.ask, pool, r, _leaving(r, world), world) for r in rooms)
        if sum(workers) >= wanted if route.is_spread else any(num >= wanted for num in workers):
            return True
    return False


def choose(record: RunRecord, route: Route, world: World, victims: Iterable[RunId]) -> Claim | None:
    """Find the gangs to ask to leave for a run.

    Args:
        record: The run that needs room.
        route: The cards that could hold it.
        world: Everything else.
        victims: Gangs of lower priority, those that leave first coming first.

    Returns:
        A claim in which no victim is superfluous (perhaps without victims, when those who leave
        already make enough room); None when all of them together would not make room.
    """
    if route.is_spread:
        return _choose_spread(record, route, world, list(victims))
    coming = _soon(record, route, world)
    if coming is not None:
        return Claim((coming,), ())
    allowed = dict.fromkeys(victims)
    options: list[Claim] = []
    for node_id in _distinct_nodes(allowed, world):
        claim = _evict_on(record, route, world.nodes[node_id], world, allowed)
        if claim is not None:
            options.append(claim)
        if len(options) >= MAX_OPTIONS:
            break
    return min(options, key=lambda claim: _cost(claim, world), default=None)


def _soon(record: RunRecord, route: Route, world: World) -> NodeId | None:
    """A node that has room as soon as those have left who are leaving anyway."""
    nodes = dict.fromkeys(
        node for run_id in world.leaving for node in _nodes_of(world.runs[run_id])
    )
    for node_id in nodes:
        room = world.nodes.get(node_id)
        if room is not None and will_fit(record, route, (room,), world):
            return node_id
    return None


def _evict_on(
    record: RunRecord, route: Route, room: NodeRoom, world: World, allowed: Mapping[RunId, None]
) -> Claim | None:
    local = [run_id for run_id in room.runs if run_id in allowed]
    local.sort(key=lambda run_id: _leaves_first(world.runs[run_id]))
    already = _leaving(room, world)
    for pool in _pools(route):

        def fits(gone: Iterable[RunId], pool: Pool | None = pool) -> bool:
            num = _workers(record.ask, pool, room, already | frozenset(gone), world)
            return num >= record.ask.num_workers

        chosen = _fewest(local, fits)
        if chosen is not None:
            return Claim((room.node.node_id,), chosen)
    return None


def _choose_spread(
    record: RunRecord, route: Route, world: World, local: list[RunId]
) -> Claim | None:
    for pool in _pools(route):
        spread = _Spread(record.ask, pool, world)
        chosen = _fewest(local, spread.fits)
        if chosen is not None:
            return Claim(tuple(spread.nodes(chosen)), chosen)
    return None


class _Spread:
    """How many workers of a spread gang fit on all nodes when some runs have left."""

    def __init__(self, ask: Ask, pool: Pool | None, world: World) -> None:
        self._ask, self._pool, self._world = ask, pool, world
        self._now = {node_id: self._count(node_id, frozenset()) for node_id in world.nodes}

    def fits(self, gone: Sequence[RunId]) -> bool:
        after = self._after(gone)
        kept = sum(num for node_id, num in self._now.items() if node_id not in after)
        return kept + sum(after.values()) >= self._ask.num_workers

    def nodes(self, gone: Sequence[RunId]) -> Iterator[NodeId]:
        """Nodes to claim: those where somebody leaves, then those with the most room."""
        after = self._after(gone)
        workers = {**self._now, **after}
        by_room = sorted(workers, key=lambda node_id: -workers[node_id])  # ties: order of joining
        missing = self._ask.num_workers
        for node_id in dict.fromkeys((*after, *by_room)):
            if missing > 0 and workers[node_id]:
                missing -= workers[node_id]
                yield node_id

    def _after(self, gone: Sequence[RunId]) -> dict[NodeId, int]:
        nodes = dict.fromkeys(n for run_id in gone for n in _nodes_of(self._world.runs[run_id]))
        leaving = frozenset(gone)
        return {node_id: self._count(node_id, leaving) for node_id in nodes}

    def _count(self, node_id: NodeId, gone: frozenset[RunId]) -> int:
        room = self._world.nodes[node_id]
        return _workers(
            self._ask, self._pool, room, _leaving(room, self._world) | gone, self._world
        )


def _fewest(
    local: Sequence[RunId], fits: Callable[[Sequence[RunId]], bool]
) -> tuple[RunId, ...] | None:
    """The shortest beginning of `local` that makes room, without those in it that need not go."""
    if not fits(local):
        return None
    low, high = 0, len(local)  # more gone never means less room, so halving finds the shortest
    while low < high:
        middle = (low + high) // 2
        if fits(local[:middle]):
            high = middle
        else:
            low = middle + 1
    chosen = list(local[:low])
    for run_id in reversed(chosen[:-1]):
        without = [other for other in chosen if other != run_id]
        if fits(without):
            chosen = without
    return tuple(chosen)


def _workers(
    ask: Ask, pool: Pool | None, room: NodeRoom, gone: frozenset[RunId], world: World
) -> int:
    imagined = _Imagined(room, gone)
    for other in world.ahead(room):
        imagined.come(other, None)
    return imagined.come(ask, pool)


def _pools(route: Route) -> tuple[Pool | None, ...]:
    return (None,) if route.is_mixed or not route.pools else route.pools


def _leaving(room: NodeRoom, world: World) -> frozenset[RunId]:
    return frozenset(run_id for run_id in room.runs if run_id in world.leaving)


def _distinct_nodes(run_ids: Iterable[RunId], world: World) -> Iterator[NodeId]:
    seen: set[NodeId] = set()
    for run_id in run_ids:
        for node_id in _nodes_of(world.runs[run_id]):
            if node_id not in seen:
                seen.add(node_id)
                yield node_id


def _nodes_of(record: RunRecord) -> Iterable[NodeId]:
    return dict.fromkeys(share.node_id for share in record.held)


def _leaves_first(record: RunRecord) -> tuple[int, int]:
    return (record.priority, -record.start_order)


def _cost(claim: Claim, world: World) -> tuple[int, int, int]:
    victims = [world.runs[run_id] for run_id in claim.victims]
    return (
        max(victim.priority for victim in victims),
        sum(len(victim.held) for victim in victims),
        -max(victim.start_order for victim in victims),
    )
