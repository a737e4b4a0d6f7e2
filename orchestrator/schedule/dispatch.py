"""Who starts now, for whom room is made, and for whom room is kept.

Waiting runs are looked at in the order of the queue. A run that fits starts. For one that does
not fit, in this order:

1. Room is *made* when gangs of lower priority are in the way (unless preemption is off).
2. Otherwise runs behind it may pass it, but only while it has waited less than
   `hold_after_seconds`. After that room is *kept* for it: the nodes that are nearest to holding
   it take no run that is behind it in the queue. Nothing new comes there, what is there ends,
   so it starts: nobody starves. At most a tenth of the nodes is kept at a time, and always
   those of the first run that waits.

A run that no known card could ever hold waits aside and is in nobody's way.
"""

import heapq
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from orchestrator.schedule.asks import Ask, Route, Router
from orchestrator.schedule.cards import NodeRoom
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.nearest import nearest
from orchestrator.schedule.order import EvictionOrder, Queue, Shape
from orchestrator.schedule.placement import IsOpen, find, find_on
from orchestrator.schedule.preempt import Claim, World, choose, may_gain, nodes_of, will_fit
from orchestrator.schedule.preempt_spread import Reach, choose_spread
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import NodeId, Placement, RunId, Seconds

__all__ = ["Decision", "Dispatch", "Evict", "Start"]

KEPT_NODES = 0.1  # of all nodes may be kept for runs that waited too long


@dataclass(frozen=True, slots=True)
class Start:
    """Start a run here."""

    record: RunRecord
    placement: Placement


@dataclass(frozen=True, slots=True)
class Evict:
    """Ask a gang to leave for a run of higher priority."""

    record: RunRecord
    outranked_by: RunRecord


Decision: TypeAlias = Start | Evict


@dataclass(slots=True, kw_only=True)
class Dispatch:
    """Decides; whoever iterates over its decisions carries each out before asking for the next."""

    runs: Mapping[RunId, RunRecord]
    ledger: Ledger
    router: Router
    queue: Queue
    evictions: EvictionOrder
    leaving: Mapping[RunId, None]  # gangs that will be gone within the yield grace
    hold_after_seconds: Seconds
    claims: dict[RunId, tuple[NodeId, ...]] = field(default_factory=dict)
    _claimants: dict[NodeId, list[RunRecord]] = field(default_factory=dict)
    _coming: dict[RunId, None] = field(default_factory=dict)  # whose claims are known to do
    _left: dict[NodeId, None] = field(default_factory=dict)  # where someone began to leave since
    _failed: dict[RunId, int] = field(default_factory=dict)  # reach at which no claim was found
    _reach: Reach = field(default_factory=Reach)
    _taken: dict[NodeId, None] = field(default_factory=dict)  # where something started since
    _world: World = field(init=False)

    def __post_init__(self) -> None:
        self._world = World(
            runs=self.runs,
            ledger=self.ledger,
            leaving=self.leaving,
            evictions=self.evictions,
            claimed=self._claimants,
            ahead=self._ahead,
        )

    @property
    def is_due(self) -> bool:
        """False when nothing can have changed since the last look at the queue."""
        return self.queue.is_fresh or bool(self.ledger.grown) or bool(self._left)

    def decide(self, now: Seconds) -> Iterator[Decision]:
        """Go through the queue once."""
        self.queue.is_fresh = False
        heads = [
            (shape.waiting[0], 0, shape)
            for shape in self.queue.shapes.values()
            if self._route(shape).reason is None
        ]
        heapq.heapify(heads)
        is_first = True
        while heads:
            entry, at, shape = heads[0]
            record = self.runs[entry[2]]
            placement = self._find(record, shape) if at == 0 else None
            if placement is not None:
                self.drop(record)
                self._taken.update(dict.fromkeys(share.node_id for share in placement.shares))
                yield Start(record, placement)
                _advance(heads, shape, 0)
                continue
            shape.is_blocked = True
            goes_on = yield from self._wait(record, shape, now, is_first=is_first)
            is_first = False
            _advance(heads, shape, at + 1 if goes_on else len(shape.waiting))
        self.ledger.grown.clear()
        self._taken.clear()
        self._left.clear()

    def drop(self, record: RunRecord) -> None:
        """Give up what is claimed for a run."""
        self._coming.pop(record.spec.run_id, None)
        self._failed.pop(record.spec.run_id, None)
        for node_id in self.claims.pop(record.spec.run_id, ()):
            claimants = self._claimants[node_id]
            claimants.remove(record)
            if not claimants:
                del self._claimants[node_id]
            if node_id in self.ledger.nodes:
                self.ledger.grown[node_id] = None
                self.ledger.note(node_id)

    def doubt(self) -> None:
        """Nodes changed: what room was made for is checked again."""
        self._taken.update(dict.fromkeys(self._claimants))
        self.queue.is_fresh = True

    def leaves(self, record: RunRecord) -> None:
        """A gang will be gone soon: room will be on its nodes."""
        self._left.update(dict.fromkeys(share.node_id for share in record.held))

    def lose(self, node_id: NodeId) -> None:
        """A node is gone, and so are the claims that counted on it."""
        for record in tuple(self._claimants.get(node_id, ())):
            self.drop(record)

    def is_made_room_for(self, record: RunRecord) -> bool:
        """True when gangs are leaving nodes that are claimed for the run."""
        rooms = self._rooms(self.claims.get(record.spec.run_id, ()))
        return any(run_id in self.leaving for room in rooms for run_id in room.runs)

    def is_kept(self, record: RunRecord, room: NodeRoom) -> bool:
        """True when a node is kept for a run that goes before this one."""
        return any(other.key < record.key for other in self._claimants.get(room.node.node_id, ()))

    def _route(self, shape: Shape) -> Route:
        if shape.route is None:
            shape.route = self.router.route(shape.ask)
        return shape.route

    def _find(self, record: RunRecord, shape: Shape) -> Placement | None:
        route = self._route(shape)
        is_open = self._is_open(record)
        if record.avoid:
            elsewhere = self._search(
                record, shape, route, lambda r: _is_elsewhere(r, record) and is_open(r)
            )
            if elsewhere is not None:
                return elsewhere
        return self._search(record, shape, route, is_open)

    def _search(
        self, record: RunRecord, shape: Shape, route: Route, is_open: IsOpen
    ) -> Placement | None:
        if not shape.is_blocked:
            return find(shape.ask, route, self.ledger, is_open)
        if not self.ledger.grown or not may_gain(record, route, self.ledger.grown, self._world):
            return None
        return find_on(shape.ask, route, self._rooms(self.ledger.grown), self.ledger, is_open)

    def _wait(
        self, record: RunRecord, shape: Shape, now: Seconds, *, is_first: bool
    ) -> Generator[Evict, None, bool]:
        """Make or keep room for a run; returns whether the next of its shape needs a look too."""
        route = self._route(shape)
        claimed = self.claims.get(record.spec.run_id, ())
        if record.spec.run_id in self._coming and self._is_coming(record, route, claimed):
            return True
        claim = self._choose(record, shape, route)
        if claim is not None:
            self._hold(record, claim.nodes)
            self._coming[record.spec.run_id] = None
            for run_id in claim.victims:
                yield Evict(self.runs[run_id], record)
            return True
        if not route.is_spread:
            shape.hopeless_priority = max(
                record.priority, shape.hopeless_priority or record.priority
            )
        if now - record.queued_at < self.hold_after_seconds:
            return False
        has_budget = len(self._claimants) < len(self.ledger.nodes) * KEPT_NODES
        if not claimed and (is_first or has_budget):
            self._hold(record, nearest(record.ask, route, self.ledger, self._is_open(record)))
        return has_budget

    def _is_coming(self, record: RunRecord, route: Route, claimed: tuple[NodeId, ...]) -> bool:
        """True when what was made room for is still enough once those have left who leave.

        Whoever leaves was counted as gone from the first, so only what was taken since counts.
        """
        if not any(node in self._taken for node in claimed):
            return True
        if will_fit(record, route, self._rooms(claimed), self._world):
            return True
        del self._coming[record.spec.run_id]
        return False

    def _choose(self, record: RunRecord, shape: Shape, route: Route) -> Claim | None:
        if route.is_spread:
            return self._choose_spread(record, shape, route)
        hopeless = shape.hopeless_priority
        nodes: Iterable[NodeId]
        if hopeless is None or record.priority > hopeless:
            gangs = chain(self.leaving, self.evictions.below(record.priority))
            nodes = (node_id for run_id in gangs for node_id in nodes_of(self.runs[run_id]))
        else:
            nodes = (*self.ledger.grown, *self._left)
            if not may_gain(record, route, nodes, self._world):
                return None
        return choose(record, route, self._world, self._distinct_rooms(nodes))

    def _choose_spread(self, record: RunRecord, shape: Shape, route: Route) -> Claim | None:
        if self.ledger.num_changes < shape.patience.get(record.priority, 0):
            return None
        if not self.evictions.has_below(record.priority):
            return None
        pools, most = self._reach.enough(record, route, self._world)
        if not pools:
            shape.patience[record.priority] = self._reach.not_before
            return None
        if most <= self._failed.get(record.spec.run_id, 0):
            return None
        claim = choose_spread(record, pools, self._world)
        if claim is None:
            self._failed[record.spec.run_id] = most
        return claim

    def _ahead(self, record: RunRecord, room: NodeRoom) -> Sequence[Ask]:
        claimants = self._claimants.get(room.node.node_id)
        if not claimants:
            return ()
        before = [other for other in claimants if other.key < record.key]
        return [other.ask for other in sorted(before, key=lambda other: other.key)]

    def _hold(self, record: RunRecord, nodes: tuple[NodeId, ...]) -> None:
        self.drop(record)
        if nodes:
            self.claims[record.spec.run_id] = nodes
            for node_id in nodes:
                self.ledger.note(node_id)
                self._claimants.setdefault(node_id, []).append(record)

    def _is_open(self, record: RunRecord) -> IsOpen:
        if not self._claimants:
            return _always
        return lambda room: not self.is_kept(record, room)

    def _distinct_rooms(self, node_ids: Iterable[NodeId]) -> Iterator[NodeRoom]:
        seen: set[NodeId] = set()
        for node_id in node_ids:
            if node_id not in seen and node_id in self.ledger.nodes:
                seen.add(node_id)
                yield self.ledger.nodes[node_id]

    def _rooms(self, node_ids: Iterable[NodeId]) -> list[NodeRoom]:
        return [self.ledger.nodes[n] for n in node_ids if n in self.ledger.nodes]


def _advance(heads: list[tuple[tuple[int, int, RunId], int, Shape]], shape: Shape, at: int) -> None:
    if at < len(shape.waiting):
        heapq.heapreplace(heads, (shape.waiting[at], at, shape))
    else:
        heapq.heappop(heads)


def _always(_: NodeRoom) -> bool:
    return True


def _is_elsewhere(room: NodeRoom, record: RunRecord) -> bool:
    return room.node.node_id not in record.avoid
