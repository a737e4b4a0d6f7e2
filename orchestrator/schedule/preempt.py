"""Whom to ask to leave so that a run of higher priority has room, and never more than needed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.schedule.asks import Ask, Route, matches, within_host
from orchestrator.schedule.cards import CardRoom, NodeRoom, Outlook, Pool
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.order import EvictionOrder
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import DeviceKind, NodeId, RunId

__all__ = [
    "Claim",
    "World",
    "choose",
    "leaving_on",
    "may_gain",
    "most_workers_on",
    "nodes_of",
    "pools_of",
    "will_fit",
    "workers_on",
]

MAX_OPTIONS = 4  # nodes compared before the cheapest is taken; bounds the search on large clusters


@dataclass(frozen=True, slots=True)
class Claim:
    """Nodes on which room is made for a run, and the gangs that must leave for it."""

    nodes: tuple[NodeId, ...]
    victims: tuple[RunId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the choice looks at; `ahead` tells the claims on a node that go before a run's own."""

    runs: Mapping[RunId, RunRecord]
    ledger: Ledger
    leaving: Mapping[RunId, None]
    evictions: EvictionOrder
    claimed: Mapping[NodeId, object]
    ahead: Callable[[RunRecord, NodeRoom], Sequence[Ask]]

    @property
    def nodes(self) -> Mapping[NodeId, NodeRoom]:
        """The nodes that are known."""
        return self.ledger.nodes

    def outlook(self, room: NodeRoom, priority: int) -> Outlook:
        """What a node could hold for a run of a priority; looked at once until the node changes."""
        known = room.outlooks.get(priority)
        if known is None:
            lower = self.evictions.order_of((self.runs[r] for r in room.runs), below=priority)
            known = Outlook(room, leaving_on(room, self), tuple(lower))
            room.outlooks[priority] = known
        return known


class _Imagined:
    """A node as it will be when some runs have left and others have come."""

    def __init__(self, room: NodeRoom, gone: frozenset[RunId]) -> None:
        self._gone = gone
        self._cards = list(room.cards.values())
        self._taken: dict[int, int] = {}  # card index -> bytes of those who come; -1 is all of it
        self._cpus, self._ram = room.host_without(gone)

    def come(self, ask: Ask, pool: Pool | None) -> int:
        """Let as many workers of an ask come as fit; returns their number."""
        most = within_host(ask, ask.num_workers, self._cpus, self._ram)
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
        self._ram -= num * ask.host_bytes
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
    for pool in pools_of(route):
        workers = (workers_on(record, pool, r, leaving_on(r, world), world) for r in rooms)
        if sum(workers) >= wanted if route.is_spread else any(num >= wanted for num in workers):
            return True
    return False


def may_gain(record: RunRecord, route: Route, nodes: Iterable[NodeId], world: World) -> bool:
    """False when even without all who leave, or may be asked to, none of the nodes is enough.

    What fits now, or could be cleared, is never more; so most looks at a node end here.
    """
    ask = record.ask
    if route.is_spread or route.is_mixed or ask.may_spread or ask.device is DeviceKind.CPU:
        return True
    for node_id in nodes:
        room = world.nodes.get(node_id)
        if room is not None and (not ask.labels or room.admits(ask.labels)):
            outlook = world.outlook(room, record.priority)
            for pool in route.pools:
                if outlook.num_cards(pool, ask.size) >= ask.num_workers:
                    return True
    return False


def choose(
    record: RunRecord, route: Route, world: World, rooms: Iterable[NodeRoom]
) -> Claim | None:
    """Find the gangs to ask to leave for a run that goes to one node.

    Args:
        record: The run that needs room.
        route: The cards that could hold it.
        world: Everything else.
        rooms: The nodes to look at; the first few that can be cleared are compared.

    Returns:
        A claim in which no victim is superfluous, without victims where those who leave anyway
        make enough room; None when all gangs of lower priority together would not.
    """
    options: list[Claim] = []
    for room in rooms:
        claim = _evict_on(record, route, room, world)
        if claim is not None:
            if not claim.victims:
                return claim
            options.append(claim)
        if len(options) >= MAX_OPTIONS:
            break
    return min(options, key=lambda claim: _cost(claim, world), default=None)


def _evict_on(record: RunRecord, route: Route, room: NodeRoom, world: World) -> Claim | None:
    if record.ask.labels and not room.admits(record.ask.labels):
        return None
    outlook = world.outlook(room, record.priority)
    if not outlook.gone:
        return None
    ask, ahead = record.ask, world.ahead(record, room)
    for pool in pools_of(route):
        if _at_most(ask, pool, outlook) < ask.num_workers:
            continue  # claims of others can only leave less
        if _most(ask, pool, room, outlook, ahead) < ask.num_workers:
            continue

        def fits(gone: Iterable[RunId], pool: Pool | None = pool) -> bool:
            left = outlook.leaving.union(gone)
            return _workers(ask, pool, room, left, ahead) >= ask.num_workers

        return Claim((room.node.node_id,), _fewest(outlook.lower, fits))
    return None


def _fewest(local: Sequence[RunId], fits: Callable[[Sequence[RunId]], bool]) -> tuple[RunId, ...]:
    """The shortest beginning of `local` that makes room, without those in it that need not go."""
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


def most_workers_on(record: RunRecord, pool: Pool | None, room: NodeRoom, world: World) -> int:
    """Workers of a run that fit on a node once all have left who may be asked to, or leave."""
    if record.ask.labels and not room.admits(record.ask.labels):
        return 0
    outlook = world.outlook(room, record.priority)
    return _most(record.ask, pool, room, outlook, world.ahead(record, room))


def _most(
    ask: Ask, pool: Pool | None, room: NodeRoom, outlook: Outlook, ahead: Sequence[Ask]
) -> int:
    """Workers of an ask that fit once all have left who could, and claims ahead are served."""
    if not ahead:
        return _at_most(ask, pool, outlook)
    key = (ask, pool, *ahead)
    known = outlook.served.get(key)
    if known is None:
        known = outlook.served[key] = _workers(ask, pool, room, outlook.gone, ahead)
    return known


def _at_most(ask: Ask, pool: Pool | None, outlook: Outlook) -> int:
    """Workers of an ask that fit while nobody has a claim that goes before."""
    if ask.device is DeviceKind.CPU:
        num = ask.num_workers
    elif pool is not None:
        num = outlook.num_cards(pool, ask.size)
    else:
        matching = (kind for kind in outlook.pools() if matches(ask, kind))
        num = sum(outlook.num_cards(kind, ask.size) for kind in matching)
    return within_host(ask, min(num, ask.num_workers), *outlook.host)


def workers_on(
    record: RunRecord, pool: Pool | None, room: NodeRoom, gone: frozenset[RunId], world: World
) -> int:
    """Workers of a run that fit on a node once others are gone and claims ahead are served."""
    if record.ask.labels and not room.admits(record.ask.labels):
        return 0
    return _workers(record.ask, pool, room, gone, world.ahead(record, room))


def _workers(
    ask: Ask, pool: Pool | None, room: NodeRoom, gone: frozenset[RunId], ahead: Sequence[Ask]
) -> int:
    if not gone and not ahead and pool is not None:
        num = sum(card.pool is pool and card.has_room(ask.size) for card in room.cards.values())
        most = min(num, ask.num_workers)
        return within_host(ask, most, room.free_cpus, room.free_host_bytes)
    imagined = _Imagined(room, gone)
    for other in ahead:
        imagined.come(other, None)
    return imagined.come(ask, pool)


def pools_of(route: Route) -> tuple[Pool | None, ...]:
    """The pools to try one after the other; None is any card that matches."""
    return (None,) if route.is_mixed or not route.pools else route.pools


def leaving_on(room: NodeRoom, world: World) -> frozenset[RunId]:
    """Runs on a node that will be gone within the yield grace."""
    return frozenset(run_id for run_id in room.runs if run_id in world.leaving)


def nodes_of(record: RunRecord) -> Iterable[NodeId]:
    """The nodes on which a gang still holds something."""
    return dict.fromkeys(share.node_id for share in record.held)


def _cost(claim: Claim, world: World) -> tuple[int, int, int]:
    victims = [world.runs[run_id] for run_id in claim.victims]
    return (
        max(victim.priority for victim in victims),
        sum(len(victim.held) for victim in victims),
        -max(victim.start_order for victim in victims),
    )
