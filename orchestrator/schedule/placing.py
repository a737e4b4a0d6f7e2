"""Where runs of one card go by measured speed, and who is parted again; what `assign` needs.

Before the queue is gone through, the first `LOOKED_AT` runs of one card are placed together, for
the greatest total worth. That is advice: a run whose advised card has gone meanwhile is placed by
the rules of `placement`, like any other. Two runs on one card that measurements show to be slower
together than one after the other are parted: the newer one leaves after its epoch, and runs like
them do not share a card of that kind again.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice

from orchestrator.schedule.asks import Ask, Router, within_host
from orchestrator.schedule.assign import Seeker, Spot, assign, in_queue_order
from orchestrator.schedule.cards import FOREIGN_TOLERANCE, CardRoom
from orchestrator.schedule.company import Company, Place
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.order import Queue
from orchestrator.schedule.placement import IsOpen, placement_on
from orchestrator.schedule.runs import RunRecord
from orchestrator.schedule.throughput import Throughput, Verdict, signature
from orchestrator.selectors import Selector
from orchestrator.types import DeviceKind, NodeId, Placement, Progress, RunId, Seconds

__all__ = ["Place", "Placing", "is_single"]

LOOKED_AT = 32  # runs of the queue that are placed together; bounds the time of a decision
MAX_SPOTS = 64  # cards that are looked at for them


@dataclass(slots=True, kw_only=True)
class Placing:
    """A fold over starts, ends and epochs; its advice depends on nothing else."""

    runs: Mapping[RunId, RunRecord]
    ledger: Ledger
    router: Router
    throughput: Throughput = field(default_factory=Throughput)
    company: Company = field(default_factory=Company)

    def came(self, record: RunRecord, now: Seconds) -> None:
        """A gang begins to train; those of several cards are company only."""
        places = [(s.node_id, s.card) for s in record.held if s.card is not None]
        if places:
            node_id, index = places[0]
            kind = self.ledger.nodes[node_id].cards[index].card.name
            self.company.came(record.spec.run_id, _name(record), kind, places, now)

    def recut(self, record: RunRecord, now: Seconds) -> None:
        """A run cuts its steps otherwise: it is as fast as others of its kind no more."""
        self.company.recut(record.spec.run_id, _name(record), now)

    def learn(self, record: RunRecord, progress: Progress, now: Seconds) -> RunRecord | None:
        """Take in an epoch of a run; returns who is to leave where two runs are to be parted."""
        sample = self.company.completed(record.spec.run_id, progress, now)
        if sample is None or not record.held:  # its node may be lost meanwhile
            return None
        share = record.held[0]
        assert share.card is not None, "a run without a card is nobody's company"
        card = self.ledger.nodes[share.node_id].cards[share.card]
        self.throughput.rate(sample.kind, card.card.worth)
        self.throughput.learn(sample)
        others = [self.runs[run_id] for run_id in card.users if run_id != record.spec.run_id]
        if len(others) != 1 or not self._is_parted(record, others[0], card):
            return None
        return max((record, others[0]), key=lambda one: one.start_order)

    def accepts(self, record: RunRecord, card: CardRoom) -> bool:
        """False for a card whose only user is known to be slower beside the run than alone."""
        if len(card.users) != 1:
            return True
        (other,) = card.users
        return not self._is_parted(record, self.runs[other], card)

    def find(
        self,
        record: RunRecord,
        place: Place | None,
        is_open: IsOpen,
        among: Iterable[NodeId] | None = None,
    ) -> Placement | None:
        """Room for a run of one card: at the advised place, else where nobody is in its way.

        Args:
            record: The run.
            place: The advised one; None looks at every card.
            is_open: Whether a node may be used.
            among: The nodes that may have room, where that is known.
        """
        ask = record.ask
        for card in self._cards(record, place, among):
            room = card.node
            num = within_host(ask, 1, room.free_cpus, room.free_host_bytes)
            if num and card.has_room(ask.size) and is_open(room) and self.accepts(record, card):
                return placement_on(card, ask)
        return None

    def _cards(
        self, record: RunRecord, place: Place | None, among: Iterable[NodeId] | None
    ) -> Iterator[CardRoom]:
        if place is not None:
            room = self.ledger.nodes.get(place[0])
            if room is not None and place[1] in room.cards:
                yield room.cards[place[1]]
            return
        rooms = None if among is None else [self.ledger.nodes.get(node_id) for node_id in among]
        for pool in self.router.route(record.ask).pools:
            if rooms is not None:
                cards = (card for room in rooms if room for card in room.cards.values())
                mine = [card for card in cards if card.pool is pool]
                yield from sorted(mine, key=lambda c: (c.free_bytes, c.node.order, c.card.index))
                continue
            least = record.ask.size
            if least is None:  # a card of which more is taken is not whole
                least = int(pool.memory_bytes * (1.0 - FOREIGN_TOLERANCE))
            for _, order, index in pool.by_free[bisect_left(pool.by_free, (least,)) :]:
                yield self.ledger.by_order[order].cards[index]

    def advise(self, queue: Queue) -> dict[RunId, Place]:
        """Cards for the first runs of the queue that take one card each."""
        seekers = list(islice(self._seekers(queue), LOOKED_AT))
        if not seekers or not self._has_choice(seekers):
            return {}
        least = min(seeker.memory_bytes or 0 for seeker in seekers)
        wanted = sorted(  # of equal worth the first is taken: small cards before large ones
            self._spots(least, {seeker.labels for seeker in seekers} - {()}),
            key=lambda one: (one[0], one[1].free_bytes, one[1].name),
        )
        found = wanted[-MAX_SPOTS:]
        if not found:
            return {}
        spots = [spot for _, spot, _ in found]
        names = {seeker.signature for seeker in seekers}
        names.update(name for spot in spots for name in spot.beside)
        speeds = self.throughput.speeds(names, {spot.kind for spot in spots}, spots[0].kind)
        placed = assign(in_queue_order(seekers, len(spots)), spots, speeds)
        places = {spot.name: place for _, spot, place in found}
        return {run_id: places[name] for run_id, name in placed.places.items()}

    def _seekers(self, queue: Queue) -> Iterator[Seeker]:
        """Waiting runs of one card, in the order of the queue."""
        routes = {}
        for key, shape in queue.shapes.items():
            if is_single(shape.ask):
                route = self.router.route(shape.ask)
                if route.reason is None:
                    routes[key] = tuple(dict.fromkeys(pool.name for pool in route.pools))
        for priority, _, run_id in merge(*(queue.shapes[key].waiting for key in routes)):
            record = self.runs[run_id]
            kinds = routes[record.spec.queue, record.ask]
            yield Seeker(
                run_id=run_id,
                signature=_name(record),
                memory_bytes=record.ask.size,
                kinds=kinds,
                rank=priority,
                labels=record.ask.labels,
            )

    def _has_choice(self, seekers: Iterable[Seeker]) -> bool:
        """False where every card is like every other: then there is nothing to weigh."""
        is_sharing = any(seeker.memory_bytes is not None for seeker in seekers)
        return is_sharing or len({pool.name for pool in self.ledger.pools.values()}) > 1

    def _spots(
        self, least: int, selectors: AbstractSet[Selector]
    ) -> Iterator[tuple[float, Spot, Place]]:
        """Cards with room, with what they are worth; dearest kinds last."""
        for pool in self.ledger.pools.values():
            for free, order, index in reversed(pool.by_free):
                if free <= 0 or free < least:
                    break
                room = self.ledger.by_order[order]
                card = room.cards[index]
                if len(card.users) > 1 or room.aside:
                    continue
                spot = Spot(
                    name=f"{room.node.node_id}:{index}",
                    kind=pool.name,
                    free_bytes=free,
                    beside=tuple(_name(self.runs[run_id]) for run_id in card.users),
                    is_whole=card.has_room(None),
                    refuses=frozenset(each for each in selectors if not room.admits(each)),
                )
                self.throughput.rate(pool.name, card.card.worth)
                yield card.card.worth, spot, (room.node.node_id, index)

    def _is_parted(self, one: RunRecord, other: RunRecord, card: CardRoom) -> bool:
        pair = self.throughput.pair(_name(one), _name(other), card.card.name)
        return pair.verdict is Verdict.PARTED


def is_single(ask: Ask) -> bool:
    """True for a run of one card, or a share of it, that is no matter of a policy's width."""
    return ask.device is DeviceKind.GPU and ask.num_workers == 1 and not ask.may_spread


def _name(record: RunRecord) -> str:
    micro_batch = record.batch.micro_batch if record.batch is not None else 0
    return signature(record.spec, micro_batch)
