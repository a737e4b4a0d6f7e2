"""Why a run waits: what it asks for, what there is, who has it, and the nearest remedy."""

from collections.abc import Iterator

from orchestrator.schedule import explain_sharing as sharing
from orchestrator.schedule.asks import Ask, Route, is_kind
from orchestrator.schedule.cards import CardRoom
from orchestrator.schedule.dispatch import Dispatch
from orchestrator.schedule.explain_aside import opens
from orchestrator.schedule.explain_cards import card_available, cards_reason
from orchestrator.schedule.explain_host import asked, host_available, host_remedies
from orchestrator.schedule.explain_labels import label_available, label_remedies, label_sentence
from orchestrator.schedule.explain_scaling import node_available, node_remedies, node_sentence
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import (
    Bytes,
    DeviceKind,
    Explanation,
    NodeId,
    PendingReason,
    RunId,
    RunState,
    Seconds,
)

__all__ = ["explain", "pending_reason"]

_WITH_HOST = PendingReason.WAITING_FOR_CPU_OR_RAM
MAX_LINES = 8  # blockers told; more help nobody

_SENTENCES = {
    PendingReason.BACKOFF: "it failed and is tried again after a pause",
    PendingReason.NO_MATCHING_GPU: "no card of the cluster matches, so waiting cannot help",
    PendingReason.NO_MATCHING_LABELS: (
        "no node with such a card has the labels that it asks for, so waiting cannot help"
    ),
    PendingReason.EXCEEDS_CLUSTER: "it asks for more than the cluster has, so waiting cannot help",
    PendingReason.WAITING_FOR_RUNS: "other runs have to succeed first",
    PendingReason.WAITING_FOR_PREEMPTED: "gangs of lower priority are leaving for it",
    PendingReason.FRAGMENTED: "enough cards have room, but not on one node or of one kind",
    PendingReason.EXCLUDED_BY_LABELS: "cards have room, but on nodes without its labels",
    PendingReason.WAITING_FOR_CPU_OR_RAM: "its nodes have too few CPUs or too little RAM free",
    PendingReason.EXTERNAL_PROCESS: "processes outside the orchestrator hold the room",
    PendingReason.SET_ASIDE: "the cards that could hold it were put aside after failures",
    PendingReason.DISK_FULL: "a disk is nearly full; it goes on by itself once there is room",
    PendingReason.WAITING_FOR_GPU: "other runs hold the cards",
}


def pending_reason(record: RunRecord, dispatch: Dispatch) -> PendingReason | None:
    """The token that says why a run waits; None when it does not."""
    if record.state is not RunState.PENDING:
        return None
    if record.deadline is not None or record.waits_for:
        return PendingReason.WAITING_FOR_RUNS if record.waits_for else PendingReason.BACKOFF
    route = dispatch.router.route(record.ask)
    if route.reason is not None:
        return route.reason
    if record.spec.run_id in dispatch.router.offers.asked:
        return PendingReason.WAITING_FOR_NODE
    return _reason_to_wait(record, route, dispatch)


def _reason_to_wait(record: RunRecord, route: Route, dispatch: Dispatch) -> PendingReason:
    of_quota = sharing.quota_reason(record, dispatch.fair, dispatch.least_gpus(record.ask))
    if of_quota is not None:
        return of_quota
    if record.is_aside:
        return PendingReason.WAITING_FOR_GPU
    if dispatch.health.is_short_of_disk:
        return PendingReason.DISK_FULL
    if dispatch.is_made_room_for(record):
        return PendingReason.WAITING_FOR_PREEMPTED
    if record.ask.device is DeviceKind.CPU:
        return PendingReason.WAITING_FOR_CPU_OR_RAM
    return cards_reason(record.ask, dispatch.router, dispatch.ledger)


def explain(record: RunRecord, dispatch: Dispatch, at: Seconds) -> Explanation:
    """Explain a run with numbers: asked and available, who holds the cards, what would help."""
    reason = pending_reason(record, dispatch)
    run_id, ask = record.spec.run_id, record.ask
    if reason is None:
        return Explanation(
            run_id=run_id,
            state=record.state,
            reason=None,
            summary=_summary(record, at),
            asks=asked(ask, dispatch.router.route(ask)),
        )
    offers = dispatch.router.offers
    why = sharing.sharing_sentence(record, reason) or node_sentence(run_id, reason, offers, at)
    why = why or label_sentence(ask, reason) or _SENTENCES[reason]
    summary = f"{run_id} is PENDING for {_span(at - record.queued_at)}: {why}"
    if reason is PendingReason.BACKOFF and record.deadline is not None:
        summary = (
            f"{run_id} is PENDING: {record.detail or 'it failed'};"
            f" attempt {record.attempt + 1} in {_span(record.deadline - at)}"
        )
    if reason is PendingReason.WAITING_FOR_RUNS:
        blockers = tuple(_waited_for(record, dispatch, at))
        remedies: tuple[str, ...] = (f"see why: orc explain {record.waits_for[0]}",)
    else:
        blockers = tuple(_blockers(record, dispatch, at))
        remedies = (
            *node_remedies(run_id, offers, at),
            *_remedies(record, reason, dispatch),
        )
    return Explanation(
        run_id=run_id,
        state=record.state,
        reason=reason,
        summary=summary,
        asks=asked(ask, dispatch.router.route(ask)),
        available=(
            *sharing.quota_available(record, reason, dispatch.fair, dispatch.least_gpus(ask)),
            *host_available(ask, dispatch.ledger),
            *(card_available(ask, dispatch.ledger) if ask.device is DeviceKind.GPU else ()),
            *label_available(ask, dispatch.ledger, offers),
            *node_available(ask, offers, dispatch.ledger),
        ),
        blockers=blockers,
        remedies=remedies,
    )


def _summary(record: RunRecord, at: Seconds) -> str:
    where = f" on {record.gpu}" if record.gpu else ""
    words = f"{record.spec.run_id} is {record.state}{where}"
    if record.state is RunState.RUNNING:
        words += f", epoch {record.epoch}/{record.spec.settings.epochs}{_end(record, at)}"
    return f"{words}: {record.detail}" if record.detail else words


def _blockers(record: RunRecord, dispatch: Dispatch, at: Seconds) -> Iterator[str]:
    """Runs on the cards it could use, the one that ends first coming first; foreign bytes."""
    route = dispatch.router.route(record.ask)
    holders: dict[tuple[RunId, NodeId], list[int]] = {}
    lines: list[tuple[float, str]] = []
    for card in _usable(record.ask, route, dispatch.ledger):
        for run_id in card.users:
            holders.setdefault((run_id, card.node.node.node_id), []).append(card.card.index)
        if card.card.foreign_bytes and not card.has_room(record.ask.size):
            place = f"{card.node.node.node_id}:{card.card.index}"
            held = _size(card.card.foreign_bytes)
            lines.append((0.0, f"{place} processes outside the orchestrator hold {held}"))
        if card.aside:
            lines.append((0.0, f"{card.aside}; {opens(card, dispatch.health, at)}"))
    for (run_id, node_id), indices in holders.items():
        other = dispatch.runs[run_id]
        cards = ",".join(map(str, sorted(indices)))
        text = f"{node_id}:{cards} {run_id} ({_rank(other, record)}, {_progress(other, at)})"
        lines.append((_seconds_left(other, at) or float("inf"), text))
    lines.sort()
    yield from (text for _, text in lines[:MAX_LINES])
    if len(lines) > MAX_LINES:
        yield f"and {len(lines) - MAX_LINES} more"


def _waited_for(record: RunRecord, dispatch: Dispatch, at: Seconds) -> Iterator[str]:
    """The runs that have yet to succeed, with their state, and why each of them waits."""
    for run_id in record.waits_for[:MAX_LINES]:
        other = dispatch.runs[run_id]
        why = pending_reason(other, dispatch)
        yield f"{run_id} ({_progress(other, at)}{f', {why}' if why else ''})"
    if len(record.waits_for) > MAX_LINES:
        yield f"and {len(record.waits_for) - MAX_LINES} more"


def _usable(ask: Ask, route: Route, ledger: Ledger) -> Iterator[CardRoom]:
    cards = (card for card in ledger.cards() if card.pool in route.pools)
    return (card for card in cards if card.node.admits(ask.labels))


def _remedies(record: RunRecord, reason: PendingReason, dispatch: Dispatch) -> Iterator[str]:
    ask, ledger, run = record.ask, dispatch.ledger, record.spec.run_id
    if reason in (PendingReason.BACKOFF, PendingReason.WAITING_FOR_PREEMPTED):
        return
    if reason in (PendingReason.QUOTA, PendingReason.MISCONFIGURED):
        yield from sharing.quota_remedies(record, reason)
        return
    yield from label_remedies(ask, reason, ledger, dispatch.router.offers)
    if reason is PendingReason.NO_MATCHING_LABELS:
        return
    if reason in (_WITH_HOST, PendingReason.EXCEEDS_CLUSTER):
        yield from host_remedies(ask, reason, ledger)
    if ask.device is DeviceKind.CPU:
        return
    yield from _card_remedies(ask, dispatch)
    if ask.num_workers > 1:
        yield f"use fewer GPUs: resources.gpus={ask.num_workers // 2}"
    if not reason.needs_person:
        yield f"go first: orc queue set {run} priority={record.priority + 10}"
        yield f"{dispatch.queue.position(record)} runs go before it in the queue"


def _card_remedies(ask: Ask, dispatch: Dispatch) -> Iterator[str]:
    needed = ask.size or 0
    for _, pool in sorted(dispatch.ledger.pools.items()):
        is_excluded = not any(is_kind(wanted, pool.name) for wanted in ask.gpu_types)
        if ask.gpu_types and is_excluded and pool.memory_bytes >= max(needed, ask.over_bytes + 1):
            yield f"allow {pool.name} in resources.gpu_type"
    largest = dispatch.router.largest(ask)
    if needed > largest > 0:
        yield (
            f"needs {_size(needed)} a card, the largest allowed has {_size(largest)}: a smaller"
            f" micro_batch, imgsz or model"
        )


def _rank(other: RunRecord, record: RunRecord) -> str:
    sign = ">" if other.priority > record.priority else "="
    sign = "<" if other.priority < record.priority else sign
    return f"priority {other.priority} {sign} {record.priority}"


def _progress(other: RunRecord, at: Seconds) -> str:
    if other.state is not RunState.RUNNING:
        return str(other.state)
    return f"epoch {other.epoch}/{other.spec.settings.epochs}{_end(other, at)}"


def _end(record: RunRecord, at: Seconds) -> str:
    left = _seconds_left(record, at)
    return "" if left is None else f", ends in about {_span(left)}"


def _seconds_left(record: RunRecord, _: Seconds) -> Seconds | None:
    if record.progress is None or record.state is not RunState.RUNNING:
        return None
    return max(record.progress.epochs - record.epoch, 0) * record.progress.seconds


def _size(num_bytes: Bytes) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _span(seconds: Seconds) -> str:
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
