"""Where a waiting run fits now: what is open to it, and what it had better avoid."""

from dataclasses import dataclass, field, replace

from orchestrator.schedule.asks import Route
from orchestrator.schedule.cards import NodeRoom
from orchestrator.schedule.claims import Claims
from orchestrator.schedule.forecast import Forecasts
from orchestrator.schedule.offers import Offers
from orchestrator.schedule.order import Queue, Shape
from orchestrator.schedule.placement import IsOpen, find, find_on
from orchestrator.schedule.placing import Place, Placing, is_single
from orchestrator.schedule.preempt import World, may_gain
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import Placement, RunId, Seconds

__all__ = ["Finding"]


@dataclass(slots=True, kw_only=True)
class Finding:
    """Looks for room during one pass through the queue.

    `placing` is None where speed does not count, and cards are filled one after the other.
    """

    world: World
    claims: Claims
    forecasts: Forecasts
    placing: Placing | None = None
    offers: Offers = field(default_factory=Offers)
    _now: Seconds = 0.0
    _advice: dict[RunId, Place] = field(default_factory=dict)

    def begin(self, queue: Queue, now: Seconds) -> None:
        """A pass through the queue begins."""
        self._now = now
        self._advice = {} if self.placing is None else self.placing.advise(queue)

    def find(self, record: RunRecord, shape: Shape, route: Route) -> Placement | None:
        """Room for the whole gang; on nodes that failed it only where there is no other."""
        is_open = self.is_open(record)
        if self.placing is not None and is_single(shape.ask):
            found = self._find_single(self.placing, record, shape, is_open)
            if found is not None or not record.avoid:
                return found
        if record.avoid:
            elsewhere = self._search(
                record, shape, route, lambda r: _is_elsewhere(r, record) and is_open(r)
            )
            if elsewhere is not None:
                return elsewhere
        return self._search(record, shape, route, is_open)

    def is_open(self, record: RunRecord) -> IsOpen:
        """Whether a node is in service, has the labels, and is not kept for somebody else."""
        labels = record.ask.labels
        if not self.claims.by_node and not self.offers.brought:
            return _is_in_service if not labels else lambda r: r.is_open and r.admits(labels)
        left = self.forecasts.left(record) if self.claims.has_forecast else None
        ends_at = None if left is None else self._now + left.most
        return lambda room: (
            room.is_open
            and (not labels or room.admits(labels))
            and not self.offers.keeps_out(record.spec.run_id, room.node.node_id)
            and not self.claims.keeps_out(record, room, ends_at)
        )

    def _find_single(
        self, placing: Placing, record: RunRecord, shape: Shape, is_open: IsOpen
    ) -> Placement | None:
        """Room for a run of one card where it is fast, and beside nobody whom it slows down."""

        def is_good(room: NodeRoom) -> bool:
            return _is_elsewhere(room, record) and is_open(room)

        place = self._advice.get(record.spec.run_id)
        advised = None if place is None else placing.find(record, place, is_good)
        among = tuple(self.world.ledger.grown) if shape.is_blocked else None
        return advised or placing.find(record, None, is_good, among)

    def _search(
        self, record: RunRecord, shape: Shape, route: Route, is_open: IsOpen
    ) -> Placement | None:
        ledger, ask = self.world.ledger, shape.ask
        if ask.may_spread and self.world.leaving:
            ask = replace(ask, may_spread=False)  # in a moment it may have a node for itself
        if not shape.is_blocked:
            return find(ask, route, ledger, is_open)
        if not ledger.grown or not may_gain(record, route, ledger.grown, self.world):
            return None
        grown = [ledger.nodes[node_id] for node_id in ledger.grown if node_id in ledger.nodes]
        return find_on(ask, route, grown, ledger, is_open)


def _is_in_service(room: NodeRoom) -> bool:
    return room.is_open


def _is_elsewhere(room: NodeRoom, record: RunRecord) -> bool:
    return room.node.node_id not in record.avoid
