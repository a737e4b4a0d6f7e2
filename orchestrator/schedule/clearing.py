"""Whether gangs of lower priority are in a run's way, and which of them to ask to leave."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from orchestrator.schedule.asks import Route
from orchestrator.schedule.cards import NodeRoom
from orchestrator.schedule.order import Shape
from orchestrator.schedule.preempt import Claim, World, choose, may_gain, nodes_of
from orchestrator.schedule.preempt_spread import Reach, choose_spread
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import NodeId, RunId

__all__ = ["Clearing"]


@dataclass(slots=True)
class Clearing:
    """Looks for room that could be made, and remembers where it looked in vain."""

    world: World
    _reach: Reach = field(default_factory=Reach)
    _failed: dict[RunId, int] = field(default_factory=dict)  # reach at which no claim was found

    def forget(self, run_id: RunId) -> None:
        """The run starts, or waits no more."""
        self._failed.pop(run_id, None)

    def choose(
        self, record: RunRecord, shape: Shape, route: Route, left: Iterable[NodeId]
    ) -> Claim | None:
        """Find the nodes to clear for a run, and whom to ask; None where that would not help.

        Args:
            record: The run that needs room.
            shape: All that ask for the same; it remembers what is hopeless.
            route: The cards that could hold it.
            left: Nodes that somebody began to leave since the last look.
        """
        if route.is_spread:
            return self._choose_spread(record, shape, route)
        world = self.world
        hopeless = shape.hopeless_priority
        nodes: Iterable[NodeId]
        if hopeless is None or record.priority > hopeless:
            gangs = chain(world.leaving, world.evictions.below(record.priority))
            nodes = (node_id for run_id in gangs for node_id in nodes_of(world.runs[run_id]))
        else:
            nodes = (*world.ledger.grown, *left)
            if not may_gain(record, route, nodes, world):
                return None
        return choose(record, route, world, self._distinct_rooms(nodes))

    def _choose_spread(self, record: RunRecord, shape: Shape, route: Route) -> Claim | None:
        world = self.world
        if world.ledger.num_changes < shape.patience.get(record.priority, 0):
            return None
        if not world.evictions.has_below(record.priority):
            return None
        pools, most = self._reach.enough(record, route, world)
        if not pools:
            shape.patience[record.priority] = self._reach.not_before
            return None
        if most <= self._failed.get(record.spec.run_id, 0):
            return None
        claim = choose_spread(record, pools, world)
        if claim is None:
            self._failed[record.spec.run_id] = most
        return claim

    def _distinct_rooms(self, node_ids: Iterable[NodeId]) -> Iterator[NodeRoom]:
        seen: set[NodeId] = set()
        for node_id in node_ids:
            if node_id not in seen and node_id in self.world.ledger.nodes:
                seen.add(node_id)
                yield self.world.ledger.nodes[node_id]
