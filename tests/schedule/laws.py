"""Laws about who may wait, by brute force over all cards; slow and plain on purpose."""

import re
from dataclasses import replace

from orchestrator.schedule.asks import Ask, is_kind
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.runs import RunRecord
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Card, DeviceKind, Node, NodeId, RunId, RunSpec, RunState, Share

__all__ = ["check_first_in_line", "may_be_on", "room_for"]


def check_first_in_line(scheduler: Scheduler) -> None:
    """The first run in the queue waits only when it does not fit.

    And it is not kept waiting by gangs of lower priority: those who leave already, or those who
    were asked to, make room for it; or the room that all of them hold is not enough.
    """
    life = scheduler._life
    waiting = [
        r
        for r in life.runs.values()
        if r.state is RunState.PENDING and r.deadline is None and not r.waits_for
    ]
    possible = [r for r in waiting if life.router.route(r.ask).reason is None]
    if not possible:
        return
    first = min(possible, key=lambda record: record.key)
    assert not room_for(first, scheduler, gone=()), f"{first.spec.run_id} fits and waits"
    if not life.dispatch.evictions.is_allowed or life.router.route(first.ask).is_spread:
        return
    leaving = [run_id for run_id, r in life.runs.items() if r.is_leaving_soon]
    lower = [
        run_id
        for run_id, r in life.runs.items()
        if r.state in (RunState.STARTING, RunState.RUNNING) and r.priority < first.priority
    ]
    if not room_for(first, scheduler, gone=leaving):
        assert not room_for(first, scheduler, gone=(*leaving, *lower)), (
            f"{first.spec.run_id} waits for gangs of lower priority: {lower}"
        )


def room_for(
    record: RunRecord, scheduler: Scheduler, *, gone: tuple[RunId, ...] | list[RunId]
) -> bool:
    """True when the gang fits, once some runs are gone, by trying every set of cards."""
    life = scheduler._life
    route = life.router.route(record.ask)
    held = [
        (run_id, share)
        for run_id, other in life.runs.items()
        if run_id not in gone
        for share in other.held
    ]
    per_node = {
        node.node_id: _fitting(record.ask, _in_service(node, life), held, life.runs)
        for node in scheduler.nodes()
        if life.ledger.nodes[node.node_id].is_open and may_be_on(record.spec, node)
    }
    if route.is_spread or record.ask.device is DeviceKind.CPU:
        kinds = {kind for found in per_node.values() for kind, _ in found}
        totals = {
            kind: sum(n for found in per_node.values() for k, n in found if k == kind)
            for kind in kinds
        }
        if record.ask.device is DeviceKind.CPU:
            return any(n >= record.ask.num_workers for f in per_node.values() for _, n in f)
        if route.is_mixed:
            return sum(totals.values()) >= record.ask.num_workers and not record.ask.is_host_counted
        return any(total >= record.ask.num_workers for total in totals.values())
    return any(
        (sum(n for _, n in found) if route.is_mixed else max((n for _, n in found), default=0))
        >= record.ask.num_workers
        for node_id, found in per_node.items()
        if not record.ask.is_host_counted
        or not route.is_mixed
        or _has_host(record, scheduler, node_id, held)
    )


def may_be_on(spec: RunSpec, node: Node) -> bool:
    """True when the node's labels are as the run asks."""
    for key, condition in spec.labels.items():
        words = re.findall(r"[A-Za-z0-9._-]+", condition.removeprefix("!"))
        wanted = words[1:] if condition.removeprefix("!").startswith("in(") else words
        if (node.labels.get(key, "?") in wanted) == condition.startswith("!"):
            return False
    return True


def _in_service(node: Node, life: Lifecycle) -> Node:
    """The node without the cards that are put aside, or tried by one run already."""
    rooms = life.ledger.nodes[node.node_id].cards
    shut = [i for i, room in rooms.items() if room.aside or (room.is_on_trial and room.users)]
    return replace(node, cards=tuple(card for card in node.cards if card.index not in shut))


def _fitting(
    ask: Ask, node: Node, held: list[tuple[RunId, Share]], runs: dict[RunId, RunRecord]
) -> list[tuple[object, int]]:
    """Workers that fit on a node, for each kind of card."""
    here = [(run_id, share) for run_id, share in held if share.node_id == node.node_id]
    cpus = node.num_cpus - sum(share.num_cpus for _, share in here)
    most = int(cpus / ask.num_cpus + 1e-9) if ask.num_cpus else 10**6
    if node.host_bytes and ask.host_bytes:
        ram = node.host_bytes - sum(share.host_bytes for _, share in here)
        most = min(most, ram // ask.host_bytes)
    if ask.device is DeviceKind.CPU:
        return [("cpu", most)]
    counts: dict[object, int] = {}
    for card in node.cards:
        if _card_fits(ask, card, [(r, s) for r, s in here if s.card == card.index], runs):
            kind = (card.memory_bytes, card.name)
            counts[kind] = counts.get(kind, 0) + 1
    return [(kind, min(num, most)) for kind, num in counts.items()]


def _card_fits(
    ask: Ask, card: Card, users: list[tuple[RunId, Share]], runs: dict[RunId, RunRecord]
) -> bool:
    if ask.gpu_types and not any(is_kind(wanted, card.name) for wanted in ask.gpu_types):
        return False
    if card.memory_bytes <= ask.over_bytes:
        return False
    if ask.size is None:
        return not users and card.foreign_bytes <= card.memory_bytes / 10
    if any(runs[run_id].ask.size is None for run_id, _ in users):
        return False
    free = card.memory_bytes - card.foreign_bytes - sum(s.memory_bytes for _, s in users)
    return free >= ask.size


def _has_host(
    record: RunRecord, scheduler: Scheduler, node_id: NodeId, held: list[tuple[RunId, Share]]
) -> bool:
    node = next(node for node in scheduler.nodes() if node.node_id == node_id)
    here = [share for _, share in held if share.node_id == node_id]
    if node.host_bytes and node.host_bytes < record.ask.ram + sum(s.host_bytes for s in here):
        return False
    return node.num_cpus - sum(share.num_cpus for share in here) >= record.ask.cpus
