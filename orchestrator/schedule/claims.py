"""Nodes that are spoken for: where room is made, or kept, for a run that waits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.schedule.asks import Ask
from orchestrator.schedule.cards import NodeRoom
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import NodeId, RunId, Seconds

__all__ = ["Claims"]


@dataclass(slots=True)
class Claims:
    """Which nodes are claimed for which runs. On a node the run that goes first comes first.

    A claim may have a moment by which its room is forecast to be there. Until then a run behind
    it may use the room, if it is forecast to end before: it delays nobody.
    """

    ledger: Ledger
    ranks: Mapping[str, float]  # of queues: which goes first among equal priorities
    by_node: dict[NodeId, list[RunRecord]] = field(default_factory=dict)
    _nodes: dict[RunId, tuple[NodeId, ...]] = field(default_factory=dict)
    _ready_at: dict[RunId, Seconds] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many nodes are claimed."""
        return len(self.by_node)

    def nodes(self, run_id: RunId) -> tuple[NodeId, ...]:
        """The nodes that are claimed for a run."""
        return self._nodes.get(run_id, ())

    def rooms(self, run_id: RunId) -> list[NodeRoom]:
        """Those of them that are there."""
        return [self.ledger.nodes[n] for n in self.nodes(run_id) if n in self.ledger.nodes]

    def hold(
        self, record: RunRecord, nodes: Sequence[NodeId], *, ready_at: Seconds | None = None
    ) -> None:
        """Claim these nodes for a run, and no others any longer."""
        self.drop(record)
        if not nodes:
            return
        self._nodes[record.spec.run_id] = tuple(nodes)
        if ready_at is not None:
            self._ready_at[record.spec.run_id] = ready_at
        for node_id in nodes:
            self.ledger.note(node_id)
            self.by_node.setdefault(node_id, []).append(record)

    def drop(self, record: RunRecord) -> None:
        """Give up what is claimed for a run."""
        self._ready_at.pop(record.spec.run_id, None)
        for node_id in self._nodes.pop(record.spec.run_id, ()):
            claimants = self.by_node[node_id]
            claimants.remove(record)
            if not claimants:
                del self.by_node[node_id]
            if node_id in self.ledger.nodes:
                self.ledger.grown[node_id] = None
                self.ledger.note(node_id)

    def on(self, node_id: NodeId) -> tuple[RunRecord, ...]:
        """Runs for which a node is claimed."""
        return tuple(self.by_node.get(node_id, ()))

    def ahead(self, record: RunRecord, room: NodeRoom) -> Sequence[Ask]:
        """What those ask for who have a claim on a node and go before this run."""
        return [other.ask for other in self._before(record, room)]

    def keeps_out(self, record: RunRecord, room: NodeRoom, ends_at: Seconds | None) -> bool:
        """True when a node is kept for a run that goes before this one, and would miss it.

        `ends_at` is when this one is forecast to end, at the latest, if it starts now.
        """
        for other in self._before(record, room):
            ready_at = self._ready_at.get(other.spec.run_id)
            if ready_at is None or ends_at is None or ends_at > ready_at:
                return True
        return False

    @property
    def has_forecast(self) -> bool:
        """True when some claim says by when its room will be there."""
        return bool(self._ready_at)

    def _before(self, record: RunRecord, room: NodeRoom) -> Iterator[RunRecord]:
        claimants = self.by_node.get(room.node.node_id)
        if claimants:
            mine = self._key(record)
            before = (other for other in claimants if self._key(other) < mine)
            yield from sorted(before, key=self._key)

    def _key(self, record: RunRecord) -> tuple[int, float, int]:
        return (-record.priority, self.ranks.get(record.spec.queue, 0.0), record.order)
