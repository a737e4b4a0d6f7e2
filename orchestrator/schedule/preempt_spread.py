"""Whom to ask to leave for a gang that is larger than any node."""

import sys
from collections.abc import Iterable, Iterator

from orchestrator.schedule.asks import Route
from orchestrator.schedule.cards import Pool
from orchestrator.schedule.preempt import (
    Claim,
    World,
    leaving_on,
    most_workers_on,
    nodes_of,
    pools_of,
    workers_on,
)
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import NodeId, RunId

__all__ = ["Reach", "choose_spread"]


class Reach:
    """Workers that would fit if every gang of lower priority left.

    Kept between looks, and counted again only on nodes where something changed: large gangs that
    cannot be helped cost next to nothing. Gangs that differ in their number of workers only
    share the count.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[object, ...], _Count] = {}
        self.not_before = 0  # `Ledger.num_changes` at which a gang found too large may fit

    def enough(
        self, record: RunRecord, route: Route, world: World
    ) -> tuple[tuple[Pool | None, ...], int]:
        """The pools that could hold the gang, by the newest state of all nodes; and the most.

        Claims that go before the gang's own were counted for another one of its kind, so a pool
        may turn out not to be enough. It is worth another try when the most has grown.
        """
        ask = record.ask
        found: list[Pool | None] = []
        most = 0
        self.not_before = sys.maxsize
        for pool in pools_of(route):
            host = (ask.num_cpus, ask.host_bytes)
            whole = ask if pool is None else None
            key = (record.priority, ask.size, host, pool, whole, ask.labels)
            count = self._counts.get(key)
            if count is None:
                count = self._counts[key] = _Count()
            total = count.total(record, pool, world)
            most = max(most, total)
            self.not_before = min(self.not_before, count.not_before(record, world))
            if total >= ask.num_workers:
                found.append(pool)
        return tuple(found), most


class _Count:
    """The count for one pool, size of share and priority."""

    def __init__(self) -> None:
        self._seen = -1
        self._total = 0
        self._workers: dict[NodeId, int] = {}

    def not_before(self, record: RunRecord, world: World) -> int:
        """Changes of the ledger at which what is missing may have come: a node's cards each."""
        missing = record.ask.num_workers - self._total
        return self._seen - (-missing // max(world.ledger.most_cards, 1))

    def total(self, record: RunRecord, pool: Pool | None, world: World) -> int:
        """Workers on all nodes; an older count while the gang cannot fit whatever changed."""
        ledger = world.ledger
        if self._seen >= 0 and ledger.num_changes < self.not_before(record, world):
            return self._total
        changed = ledger.changed_since(self._seen) if self._seen >= 0 else None
        if changed is None:
            self._workers.clear()
            self._total = 0
            changed = ledger.nodes
        self._seen = ledger.num_changes
        for node_id in changed:
            self._recount(record, pool, node_id, world)
        return self._total

    def _recount(self, record: RunRecord, pool: Pool | None, node_id: NodeId, world: World) -> None:
        before = self._workers.pop(node_id, 0)
        room = world.nodes.get(node_id)
        num = 0
        if room is not None and (pool is None or room.order in pool.num_cards):
            num = most_workers_on(record, pool, room, world)
        if num:
            self._workers[node_id] = num
        self._total += num - before


def choose_spread(record: RunRecord, pools: Iterable[Pool | None], world: World) -> Claim | None:
    """Find the gangs to ask to leave for a spread gang; as `preempt.choose`."""
    for pool in pools:
        spread = _Spread(record, pool, world)
        chosen = spread.fewest(world.evictions.below(record.priority))
        if chosen is not None:
            return Claim(tuple(spread.nodes()), chosen)
    return None


class _Spread:
    """How many workers fit on all nodes while, one by one, runs are imagined gone."""

    def __init__(self, record: RunRecord, pool: Pool | None, world: World) -> None:
        self._record, self._ask, self._pool, self._world = record, record.ask, pool, world
        self._gone: dict[RunId, None] = {}
        self._workers = self._now()
        self._total = sum(self._workers.values())

    def fewest(self, victims: Iterable[RunId]) -> tuple[RunId, ...] | None:
        """Let victims go until the gang fits; then keep those who need not go."""
        for run_id in victims:
            if self._is_enough():
                break
            if self._touches(run_id):
                self._gone[run_id] = None
                self._recount(run_id)
        if not self._is_enough():
            return None
        for run_id in tuple(reversed(self._gone)):
            del self._gone[run_id]
            self._recount(run_id)
            if not self._is_enough():
                self._gone[run_id] = None
                self._recount(run_id)
        return tuple(self._gone)

    def nodes(self) -> Iterator[NodeId]:
        """Nodes to claim: those where somebody leaves, then those with the most room."""
        touched = [n for run_id in self._gone for n in nodes_of(self._world.runs[run_id])]
        by_room = sorted(self._workers, key=lambda node_id: -self._workers[node_id])
        missing = self._ask.num_workers
        for node_id in dict.fromkeys((*touched, *by_room)):
            if missing > 0 and self._workers.get(node_id):
                missing -= self._workers[node_id]
                yield node_id

    def _now(self) -> dict[NodeId, int]:
        """Workers that fit before anybody is asked to leave; from the index where it knows."""
        world, pool = self._world, self._pool
        if pool is None or self._ask.is_host_counted or self._ask.labels:
            return {node_id: self._count(node_id) for node_id in world.nodes}
        by_order = world.ledger.by_order
        tally = world.ledger.tally(pool, self._ask.size)
        workers = {by_order[order].node.node_id: num for order, num in tally.count.items()}
        for node_id in world.claimed:
            workers[node_id] = self._count(node_id)
        for run_id in world.leaving:
            for node_id in nodes_of(world.runs[run_id]):
                workers[node_id] = self._count(node_id)
        return workers

    def _is_enough(self) -> bool:
        return self._total >= self._ask.num_workers

    def _touches(self, run_id: RunId) -> bool:
        if self._pool is None:
            return True
        labels = self._ask.labels
        rooms = (self._world.nodes[n] for n in nodes_of(self._world.runs[run_id]))
        return any(r.order in self._pool.num_cards and r.admits(labels) for r in rooms)

    def _recount(self, run_id: RunId) -> None:
        for node_id in nodes_of(self._world.runs[run_id]):
            before = self._workers.get(node_id, 0)
            self._workers[node_id] = self._count(node_id)
            self._total += self._workers[node_id] - before

    def _count(self, node_id: NodeId) -> int:
        room = self._world.nodes[node_id]
        if self._pool is not None and room.order not in self._pool.num_cards:
            return 0
        gone = frozenset(run_id for run_id in room.runs if run_id in self._gone)
        return workers_on(
            self._record, self._pool, room, leaving_on(room, self._world) | gone, self._world
        )
