"""Who starts now, for whom room is made, and for whom room is kept.

Waiting runs are looked at in the order of the queue: the higher priority first, then the queue
that has had least of its fair share, then the order of submission. A run whose queue has used up
its quota waits, in nobody's way. A run that fits starts. For one that does not fit, in this order:

1. Room is *made* when gangs of lower priority are in the way (unless preemption is off).
2. Otherwise runs behind it may pass it, but only while it has waited less than
   `hold_after_seconds`. After that room is *kept* for it: the nodes that are nearest to holding
   it take no run that is behind it in the queue, unless that one is forecast to end before what
   is there (backfill). Nothing that lasts comes there, what is there ends, so it starts: nobody
   starves. At most a tenth of the nodes is kept at a time, and always those of the first run
   that waits.

A run that no known card could ever hold waits aside and is in nobody's way.
"""

import heapq
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.schedule.asks import Ask, Route, Router
from orchestrator.schedule.cards import NodeRoom
from orchestrator.schedule.claims import Claims
from orchestrator.schedule.clearing import Clearing
from orchestrator.schedule.fair import FairShare
from orchestrator.schedule.finding import Finding
from orchestrator.schedule.forecast import Forecasts
from orchestrator.schedule.health import Health
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.nearest import nearest
from orchestrator.schedule.order import EvictionOrder, Queue, Shape
from orchestrator.schedule.preempt import World, will_fit
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import DeviceKind, NodeId, Placement, RunId, Seconds

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

# Priority (negative), rank of the queue, order of submission; the run, its place in the shape.
_Head: TypeAlias = tuple[int, float, int, RunId, int, Shape]


@dataclass(slots=True, kw_only=True)
class Dispatch:
    """Decides; whoever iterates over its decisions carries each out before asking for the next."""

    runs: Mapping[RunId, RunRecord]
    ledger: Ledger
    health: Health
    router: Router
    queue: Queue
    evictions: EvictionOrder
    leaving: Mapping[RunId, None]  # gangs that will be gone within the yield grace
    hold_after_seconds: Seconds
    is_strict: bool
    fair: FairShare
    forecasts: Forecasts
    claims: Claims = field(init=False)
    finding: Finding = field(init=False)
    _now: Seconds = 0.0
    _ranks: dict[str, float] = field(default_factory=dict)  # queue -> which goes first
    _coming: dict[RunId, None] = field(default_factory=dict)  # whose claims are known to do
    _left: dict[NodeId, None] = field(default_factory=dict)  # where someone began to leave since
    _taken: dict[NodeId, None] = field(default_factory=dict)  # where something started since
    _world: World = field(init=False)
    _clearing: Clearing = field(init=False)

    def __post_init__(self) -> None:
        self.claims = Claims(self.ledger, self._ranks)
        self._world = World(
            runs=self.runs,
            ledger=self.ledger,
            leaving=self.leaving,
            evictions=self.evictions,
            claimed=self.claims.by_node,
            ahead=self.claims.ahead,
        )
        self._clearing = Clearing(self._world)
        self.finding = Finding(
            world=self._world,
            claims=self.claims,
            forecasts=self.forecasts,
            offers=self.router.offers,
        )

    @property
    def is_due(self) -> bool:
        """False when nothing can have changed since the last look at the queue."""
        return self.queue.is_fresh or bool(self.ledger.grown) or bool(self._left)

    def decide(self, now: Seconds) -> Iterator[Decision]:
        """Go through the queue once."""
        self.queue.is_fresh = False
        self._now = now
        ranks = self._rank_queues(now)
        self.finding.begin(self.queue, now)
        heads = [
            _head(shape, 0, ranks[shape.queue])
            for shape in self.queue.shapes.values()
            if self._route(shape).reason is None
        ]
        heapq.heapify(heads)
        is_first = True
        while heads:
            _, rank, _, run_id, at, shape = heads[0]
            if rank != ranks[shape.queue]:  # its queue has got something since
                heapq.heapreplace(heads, _head(shape, at, ranks[shape.queue]))
                continue
            record = self.runs[run_id]
            if not self._is_within_quota(record, shape):
                heapq.heappop(heads)
                continue
            placement = self.finding.find(record, shape, self._route(shape)) if at == 0 else None
            if placement is not None:
                self.drop(record)
                self._taken.update(dict.fromkeys(share.node_id for share in placement.shares))
                yield Start(record, placement)
                if len(ranks) > 1:
                    ranks[shape.queue] = self.fair.rank(shape.queue, now)
                _advance(heads, shape, 0, ranks[shape.queue])
                continue
            shape.is_blocked = True
            if self.is_strict:
                for *_, behind in heads[1:]:
                    behind.forget()  # what has grown is not noted for those who were not asked
                break
            goes_on = yield from self._wait(record, shape, now, is_first=is_first)
            is_first = False
            at = at + 1 if goes_on else len(shape.waiting)
            _advance(heads, shape, at, ranks[shape.queue])
        self.ledger.grown.clear()
        self._taken.clear()
        self._left.clear()

    def drop(self, record: RunRecord) -> None:
        """Give up what is claimed for a run."""
        self._coming.pop(record.spec.run_id, None)
        self._clearing.forget(record.spec.run_id)
        self.claims.drop(record)

    def doubt(self) -> None:
        """Nodes changed: what room was made for is checked again."""
        self._taken.update(dict.fromkeys(self.claims.by_node))
        for room in self._rooms(tuple(self.claims.by_node)):  # their labels may be others now
            for record in self.claims.on(room.node.node_id):
                if not room.admits(record.ask.labels):
                    self.drop(record)
        self.queue.is_fresh = True

    def leaves(self, record: RunRecord) -> None:
        """A gang will be gone soon: room will be on its nodes."""
        self._left.update(dict.fromkeys(share.node_id for share in record.held))

    def lose(self, node_id: NodeId) -> None:
        """A node is gone, and so are the claims that counted on it."""
        for record in self.claims.on(node_id):
            self.drop(record)

    def is_made_room_for(self, record: RunRecord) -> bool:
        """True when gangs are leaving nodes that are claimed for the run."""
        rooms = self.claims.rooms(record.spec.run_id)
        return any(run_id in self.leaving for room in rooms for run_id in room.runs)

    def _rank_queues(self, now: Seconds) -> dict[str, float]:
        """What decides between queues; nothing where there is one only."""
        names = dict.fromkeys(shape.queue for shape in self.queue.shapes.values())
        self._ranks.clear()
        for name in names:
            self._ranks[name] = self.fair.rank(name, now) if len(names) > 1 else 0.0
        return self._ranks

    def least_gpus(self, ask: Ask) -> float:
        """Cards that an ask would count for in its queue's quota, on the largest that match."""
        pools = self.router.route(ask).pools
        if ask.size is None or not pools:
            return 0.0 if ask.device is DeviceKind.CPU else float(ask.num_workers)
        return ask.num_workers * ask.size / max(pool.memory_bytes for pool in pools)

    def _is_within_quota(self, record: RunRecord, shape: Shape) -> bool:
        """False when the queue holds all that it may; then nothing is made or kept for the run."""
        if self.fair.rule(shape.queue).max_gpus is None:
            return True
        if self.fair.allows(shape.queue, self.least_gpus(shape.ask)):
            return True
        self.drop(record)
        shape.forget()  # what becomes free meanwhile is not noted for it
        return False

    def _route(self, shape: Shape) -> Route:
        if shape.route is None:
            shape.route = self.router.route(shape.ask)
        return shape.route

    def _wait(
        self, record: RunRecord, shape: Shape, now: Seconds, *, is_first: bool
    ) -> Generator[Evict, None, bool]:
        """Make or keep room for a run; returns whether the next of its shape needs a look too."""
        route = self._route(shape)
        claimed = self.claims.nodes(record.spec.run_id)
        if record.spec.run_id in self._coming and self._is_coming(record, route, claimed):
            return True
        claim = self._clearing.choose(record, shape, route, self._left)
        if claim is not None:
            self.claims.hold(record, claim.nodes)
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
        has_budget = len(self.claims) < len(self.ledger.nodes) * KEPT_NODES
        if not claimed and (is_first or has_budget):
            self._keep(
                record, nearest(record.ask, route, self.ledger, self.finding.is_open(record))
            )
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

    def _keep(self, record: RunRecord, nodes: tuple[NodeId, ...]) -> None:
        """Keep nodes for a run until what is there has ended."""
        holders = {run_id for room in self._rooms(nodes) for run_id in room.runs}
        ready_at = self.forecasts.ends_at((self.runs[run_id] for run_id in holders), self._now)
        self.claims.hold(record, nodes, ready_at=ready_at)

    def _rooms(self, node_ids: Iterable[NodeId]) -> list[NodeRoom]:
        return [self.ledger.nodes[n] for n in node_ids if n in self.ledger.nodes]


def _head(shape: Shape, at: int, rank: float) -> _Head:
    priority, order, run_id = shape.waiting[at]
    return (priority, rank, order, run_id, at, shape)


def _advance(heads: list[_Head], shape: Shape, at: int, rank: float) -> None:
    if at < len(shape.waiting):
        heapq.heapreplace(heads, _head(shape, at, rank))
    else:
        heapq.heappop(heads)
