"""What follows from what the world reports: gangs, nodes, and time that has passed."""

from dataclasses import replace

from orchestrator.messages import (
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    NodeChanged,
    NodeJoined,
    NodeLost,
    ProgressReported,
    TimePassed,
)
from orchestrator.schedule import retry
from orchestrator.schedule.asks import Ask
from orchestrator.schedule.current import current
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.runs import Parted, RunRecord
from orchestrator.types import Cause, Progress, RunState, StopMode, StopReason

__all__ = [
    "expired",
    "failed",
    "finished",
    "joined",
    "lost",
    "progressed",
    "started",
    "trust_changed",
    "yielded",
]

NUM_AVOIDED = 3  # nodes that failed a run and are used again only when no other has room

_KILL_MEANS = {
    StopReason.START_TIMEOUT: Cause.START_FAILED,
    StopReason.NODE_LOST: Cause.NODE_LOST,
}


def started(life: Lifecycle, event: GangStarted) -> None:
    """Every worker is up."""
    record = current(life, event)
    if record is None:
        return
    if record.state is not RunState.STARTING:  # told twice, or on its way out
        record.move(GangStarted, record.state, life.now)
        return
    record.move(GangStarted, RunState.RUNNING, life.now)
    life.changed[record.spec.run_id] = None
    record.attempt_started_at = life.now
    if life.dispatch.finding.placing is not None:
        life.dispatch.finding.placing.came(record, life.now)
    if record.first_started_at is None:
        record.first_started_at = life.now
    limit = record.spec.max_duration_seconds
    left = None if limit is None else max(limit - record.ran_seconds, 0.0)
    life.timers.set(record, None if left is None else life.now + left)


def progressed(life: Lifecycle, event: ProgressReported) -> None:
    """An epoch is complete. A new highest one pays the losses back.

    The run's published row does not change by it: the rows of epochs are written with the event.
    """
    record = current(life, event)
    if record is None:
        return
    record.move(ProgressReported, record.state, life.now)
    record.progress = event.progress
    if event.checkpoint is not None and event.checkpoint.is_best:
        record.best_epoch = event.progress.epoch
    if event.progress.epoch > record.epoch:
        record.epoch = event.progress.epoch
        record.faults = retry.paid_back(record.faults)
        record.avoid = ()
        life.health.succeeded(record.held, is_finished=False)
    if record.batch and 0 < event.progress.micro_batch < record.batch.micro_batch:
        # The trainer had to cut its steps smaller; the next attempt starts with that cut.
        record.batch = replace(record.batch, micro_batch=event.progress.micro_batch)
        life.changed[record.spec.run_id] = None
    if event.checkpoint is not None:
        record.checkpoints = (event.checkpoint, *record.checkpoints)
    _part(life, record, event.progress)
    life.forecasts.progressed(record, event.progress, life.now)
    if life.sizing is not None:
        life.sizing.progressed(record, event.progress, life.now)


def _part(life: Lifecycle, record: RunRecord, progress: Progress) -> None:
    """Learn from an epoch; ask a run to leave that shares its card to the loss of both."""
    placing = life.dispatch.finding.placing
    newer = None if placing is None else placing.learn(record, progress, life.now)
    if newer is not None and newer.state is RunState.RUNNING:
        life.stop(newer, Parted, StopReason.PREEMPTED, newer.saving_mode)
        newer.detail = "leaves its card: the runs there are slower together than in turn"


def finished(life: Lifecycle, event: GangFinished) -> None:
    """The run is complete, even when it was about to leave."""
    record = current(life, event)
    if record is not None:
        life.health.succeeded(record.held, is_finished=True)
        life.end(record, GangFinished, RunState.SUCCEEDED)


def yielded(life: Lifecycle, event: GangYielded) -> None:
    """The gang left because it was asked to."""
    record = current(life, event)
    if record is not None and not _ended_as_asked(life, record, GangYielded):
        life.again(record, GangYielded)


def failed(life: Lifecycle, event: GangFailed) -> None:
    """The attempt ended badly: again, or never again."""
    record = current(life, event)
    if record is None or _ended_as_asked(life, record, GangFailed):
        return
    if record.stop is None or event.cause is not Cause.KILLED:
        _retry(life, record, GangFailed, event.cause, _words(event))
    elif record.stop in _KILL_MEANS:
        cause = _KILL_MEANS[record.stop]
        _retry(life, record, GangFailed, cause, record.detail)
    else:
        life.again(record, GangFailed)  # it was made to leave; that is nobody's fault


def joined(life: Lifecycle, event: NodeJoined | NodeChanged) -> None:
    """A node is there, or its facts changed. A change of a node that has gone is dropped."""
    if isinstance(event, NodeChanged) and event.node.node_id not in life.ledger.nodes:
        return
    life.ledger.join(event.node)
    life.health.apply(event.node.node_id)
    life.inventory_changed()


def lost(life: Lifecycle, event: NodeLost) -> None:
    """A node vanished: shares on it end, and gangs with a worker on it are killed."""
    if event.node_id not in life.ledger.nodes:
        return
    life.dispatch.lose(event.node_id)
    for run_id in life.ledger.lose(event.node_id):
        record = life.runs[run_id]
        record.held = tuple(share for share in record.held if share.node_id != event.node_id)
        record.avoid = tuple(node for node in record.avoid if node != event.node_id)
        is_leaving = record.stop in (StopReason.CANCELLED, StopReason.MAX_DURATION)
        reason = record.stop if is_leaving and record.stop else StopReason.NODE_LOST
        life.stop(record, NodeLost, reason, None)
        if not is_leaving:
            record.detail = f"node {event.node_id} was lost"
    life.health.lost(life.now)
    life.inventory_changed()


def trust_changed(life: Lifecycle) -> None:
    """Cards were put aside or are trusted again: whoever waits may wait for another reason."""
    life.dispatch.doubt()
    for shape in life.queue.shapes.values():
        life.changed.update((run_id, None) for _, _, run_id in shape.waiting)


def expired(life: Lifecycle, record: RunRecord) -> None:
    """The one moment that the run waited for has come; its state says which."""
    if record.state is RunState.PENDING:
        record.move(TimePassed, RunState.PENDING, life.now)
        life.wait(record)
    elif record.state is RunState.STARTING:
        life.stop(record, TimePassed, StopReason.START_TIMEOUT, None)
        record.detail = "the gang did not start in time"
    elif record.state is RunState.RUNNING:
        life.stop(record, TimePassed, StopReason.MAX_DURATION, StopMode.AT_BATCH)
        record.detail = "stopped: it trained for its max_duration"
    elif not record.held:  # all its nodes are gone: nobody is left who could answer
        if not _ended_as_asked(life, record, TimePassed):
            _retry(life, record, TimePassed, Cause.NODE_LOST, record.detail)
    else:
        record.move(TimePassed, RunState.STOPPING, life.now)
        if record.stop is StopReason.PREEMPTED:
            record.stop = StopReason.YIELD_TIMEOUT
        life.kill(record)


def _ended_as_asked(life: Lifecycle, record: RunRecord, trigger: type) -> bool:
    if record.stop is StopReason.CANCELLED:
        life.end(record, trigger, RunState.CANCELLED, detail="cancelled")
    elif record.stop is StopReason.MAX_DURATION:
        hours = (record.spec.max_duration_seconds or 0.0) / 3600
        detail = f"it trained for its max_duration of {hours:.4g} h; resume it to go on"
        life.end(record, trigger, RunState.FAILED, detail=detail)
    else:
        return False
    return True


def _retry(life: Lifecycle, record: RunRecord, trigger: type, cause: Cause, detail: str) -> None:
    assert record.batch is not None, "a gang was started without a batch"
    if life.health.failed(record.spec, record.held, cause, life.now):
        trust_changed(life)
    verdict = retry.decide(
        cause,
        faults=record.faults,
        budget=record.spec.retry,
        batch=record.batch,
        is_lightened=record.lightened == record.attempt,
    )
    record.faults = verdict.faults
    if isinstance(verdict, retry.GiveUp):
        text = f"{detail}; {verdict.why}" if detail else verdict.why
        life.end(record, trigger, RunState.FAILED, detail=text, cause=cause)
        return
    if verdict.needs_larger_card:
        ask = _larger(life, record)
        if ask is None:
            text = f"{detail}; at micro-batch 1, and no card of the cluster has more memory"
            life.end(record, trigger, RunState.FAILED, detail=text, cause=cause)
            return
        record.ask = ask
    record.batch, record.cause, record.detail = verdict.batch, cause, detail
    if cause.is_infrastructure and cause not in (Cause.NODE_LOST, Cause.DRIVER_LOST):
        nodes = dict.fromkeys(share.node_id for share in record.held)
        if len(nodes) == 1:  # of a spread gang nobody knows which node it was
            record.avoid = tuple(dict.fromkeys((*nodes, *record.avoid)))[:NUM_AVOIDED]
    life.again(record, trigger, seconds=verdict.wait_seconds)


def _larger(life: Lifecycle, record: RunRecord) -> Ask | None:
    """An ask for more memory a card than the attempt had, if a known card has it."""
    ask, shares = record.ask, record.placement.shares if record.placement else ()
    if ask.size is not None:
        grown = replace(ask, size=min(ask.size * 3 // 2 + 1, life.router.largest(ask)))
        is_larger = grown.size is not None and grown.size > ask.size
        return grown if is_larger and life.router.route(grown).is_possible else None
    had = max((share.memory_bytes for share in shares if share.card is not None), default=0)
    for share in record.held:
        if share.card is not None:
            had = max(had, life.ledger.nodes[share.node_id].cards[share.card].card.memory_bytes)
    grown = replace(ask, over_bytes=had)
    return grown if had and life.router.route(grown).is_possible else None


def _words(event: GangFailed) -> str:
    words = event.detail or event.cause.value.lower().replace("_", " ")
    return f"{event.code}: {words}" if event.code else words
