"""When nodes are asked of an autoscaler, and what follows when one comes.

What is asked follows from the state alone: a moment after something has changed, so that runs
which are submitted together are asked for together, and every minute while a run waits, as time
alone makes forecasts come true. A node that comes is first filled with the runs that it was asked
for, and is then open to all; one of several that a gang needs is kept until the last has come.
"""

from collections.abc import Iterator

from orchestrator.messages import (
    Action,
    AskNodes,
    Event,
    GangStarted,
    MicroBatchChanged,
    NodeChanged,
    NodeJoined,
    NodeTypesOffered,
    PaceMeasured,
    ProgressReported,
    TimePassed,
)
from orchestrator.schedule import gangs
from orchestrator.schedule.demand import Demand, Want, demand
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.offers import Asked, Offers
from orchestrator.schedule.runs import RunRecord
from orchestrator.schedule.vacancy import Vacancy, vacancy_of
from orchestrator.types import DeviceKind, RunId, RunState, Seconds

__all__ = ["joined", "look", "offered", "reopen"]

SETTLE_SECONDS: Seconds = 2.0  # what is submitted, or ends, within this is looked at together
AGAIN_SECONDS: Seconds = 60.0  # while a run waits
_QUIET = (
    GangStarted,
    ProgressReported,
    PaceMeasured,
    MicroBatchChanged,
    TimePassed,
)  # free nothing


def offered(life: Lifecycle, event: NodeTypesOffered) -> None:
    """An autoscaler says what it can bring; whatever was asked of another one is forgotten."""
    offers = life.router.offers
    life.changed.update(dict.fromkeys(offers.asked))
    offers.node_types = tuple(sorted(event.node_types, key=lambda each: each.name))
    offers.spare_seconds = event.spare_seconds
    offers.late_after_seconds = event.late_after_seconds
    offers.asked, offers.left_out, offers.counts = {}, frozenset(), None
    offers.planned.clear()
    offers.brought.clear()
    if not offers.node_types:
        offers.look_at = None
    life.router.forget()
    life.inventory_changed()


def joined(life: Lifecycle, event: NodeJoined | NodeChanged) -> None:
    """A node is there, or its facts changed; one that was asked for has come for somebody."""
    node, offers = event.node, life.router.offers
    if node.node_id not in life.ledger.nodes:
        for place, planned in enumerate(offers.planned):
            if planned.node_type == node.node_type:
                offers.brought[node.node_id] = planned.runs
                del offers.planned[place]
                break
    gangs.joined(life, event)


def reopen(life: Lifecycle) -> bool:
    """Open nodes to all when those have started whom they came for; True where one was opened.

    A node stays kept for a gang that waits for more nodes, until those are late.
    """
    offers, ledger = life.router.offers, life.ledger
    opened = False
    for node_id, runs in tuple(offers.brought.items()):
        expected = {run_id for node in offers.planned for run_id in node.runs}
        waiting = [r for r in runs if _waits(life.runs[r]) and r in expected]
        is_late = any(offers.is_late(run_id, life.now) for run_id in waiting)
        if waiting and not is_late and node_id in ledger.nodes:
            continue
        del offers.brought[node_id]
        if node_id in ledger.nodes:
            ledger.grown[node_id] = None
            ledger.note(node_id)
            opened = True
    return opened


def look(life: Lifecycle, event: Event) -> Iterator[Action]:
    """Ask for other nodes than before where it is time to look and other nodes are needed."""
    offers = life.router.offers
    if life.is_draining or not offers.node_types:
        yield from _ask(offers, ())
        return
    if not isinstance(event, _QUIET):
        soon = life.now + SETTLE_SECONDS
        offers.look_at = soon if offers.look_at is None else min(offers.look_at, soon)
    if offers.look_at is None or life.now < offers.look_at:
        return
    wants = [] if life.health.is_short_of_disk else _wants(life)  # else nothing could start there
    found, there = Demand(), _num_there(life)
    if wants:
        found = demand(wants, offers.node_types, list(_vacancies(life)), there)
    _note(life, found)
    new: dict[str, int] = {}
    for node in found.nodes:
        new[node.node_type] = new.get(node.node_type, 0) + 1
    yield from _ask(offers, tuple((name, there.get(name, 0) + new[name]) for name in sorted(new)))
    offers.look_at = life.now + AGAIN_SECONDS if wants or life.queue.shapes else None


def _ask(offers: Offers, counts: tuple[tuple[str, int], ...]) -> Iterator[Action]:
    if offers.counts != counts:
        offers.counts = counts
        yield AskNodes(counts=counts)


def _note(life: Lifecycle, found: Demand) -> None:
    """Remember what was asked for whom; who is told something new is published anew."""
    offers, asked = life.router.offers, dict[RunId, Asked]()
    for node in found.nodes:
        for run_id in node.runs:
            before, known = offers.asked.get(run_id), asked.get(run_id)
            is_same = before is not None and before.node_type == node.node_type
            asked[run_id] = Asked(
                node_type=node.node_type,
                num=known.num + 1 if known else 1,
                since=before.since if before and is_same else life.now,
            )
    left_out = frozenset(found.left_out)
    told = {r for r in {*asked, *offers.asked} if asked.get(r) != offers.asked.get(r)}
    life.changed.update(dict.fromkeys(sorted(told | (left_out ^ offers.left_out))))
    offers.asked, offers.left_out, offers.planned = asked, left_out, list(found.nodes)


def _waits(record: RunRecord) -> bool:
    is_free = record.deadline is None and not record.waits_for
    return record.state is RunState.PENDING and is_free and record.batch is not None


def _wants(life: Lifecycle) -> list[Want]:
    """Runs that wait for room, as the queue goes; those first for whom a node is kept."""
    dispatch, offers = life.dispatch, life.router.offers
    waiting = [life.runs[r] for shape in life.queue.shapes.values() for _, _, r in shape.waiting]
    if life.sizing is not None:
        waiting += [r for r in life.runs.values() if r.is_aside and _waits(r)]
    kept = {run_id for runs in offers.brought.values() for run_id in runs}
    ranks = {r.spec.queue: life.fair.rank(r.spec.queue, life.now) for r in waiting}
    waiting.sort(
        key=lambda r: (
            r.spec.run_id not in kept,
            -r.priority,
            ranks[r.spec.queue] if len(ranks) > 1 else 0.0,
            r.order,
        )
    )
    wants, promised = [], dict[str, float]()
    for record in waiting:
        queue, num = record.spec.queue, promised.get(record.spec.queue, 0.0)
        gpus = dispatch.least_gpus(record.ask)
        if life.fair.allows(queue, num + gpus) and not dispatch.is_made_room_for(record):
            promised[queue] = num + gpus
            wants.append(_want(life, record))
    return wants


def _want(life: Lifecycle, record: RunRecord) -> Want:
    ask, route = record.ask, life.router.route(record.ask)
    is_gang = ask.num_workers > 1 and ask.device is DeviceKind.GPU
    is_spread = is_gang and (route.is_spread or route.reason is not None or ask.may_spread)
    return Want(run_id=record.spec.run_id, ask=ask, is_spread=is_spread)


def _vacancies(life: Lifecycle) -> Iterator[Vacancy]:
    """What is free on every node, or will be within the spare time."""
    spare, forecasts = life.router.offers.spare_seconds, life.forecasts
    for room in life.ledger.nodes.values():
        if not room.is_open:
            continue
        gone = set()
        for run_id in room.runs:
            record = life.runs[run_id]
            left = forecasts.left(record) if record.state is RunState.RUNNING else None
            if record.is_leaving_soon or (left is not None and left.expected <= spare):
                gone.add(run_id)
        yield vacancy_of(room, gone)


def _num_there(life: Lifecycle) -> dict[str, int]:
    there: dict[str, int] = {}
    for room in life.ledger.nodes.values():
        if room.node.node_type:
            there[room.node.node_type] = there.get(room.node.node_type, 0) + 1
    return there
