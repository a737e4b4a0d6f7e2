"""What follows from what people ask for: submit, cancel, resume, another place, a drain."""

from orchestrator.errors import PlanError
from orchestrator.messages import (
    CancelRequested,
    DrainEnded,
    DrainRequested,
    PlaceMended,
    PriorityChanged,
    QueueChanged,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
)
from orchestrator.plan.batch import plan_batch
from orchestrator.schedule.asks import Ask
from orchestrator.schedule.gangs import trust_changed
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.runs import Bereft, Faults, RunRecord
from orchestrator.types import Cause, RunState, StopMode, StopReason

__all__ = [
    "cancel",
    "drain",
    "end_drain",
    "mended",
    "move",
    "reprioritize",
    "resume",
    "set_rule",
    "submit",
]

# A wish about a run that does not exist changes nothing: it was accepted from somebody who
# mistyped, and the journal must stay readable.


def submit(life: Lifecycle, event: RunSubmitted) -> None:
    """Queue a run. When its id is known already, the first submission stands."""
    spec = event.spec
    if spec.run_id in life.runs:
        return
    record = RunRecord(
        spec=spec,
        order=life.next_order(),
        priority=spec.priority,
        ask=Ask.of(spec),
        batch=None,
        submitted_at=life.now,
        queued_at=life.now,
    )
    life.runs[spec.run_id] = record
    life.changed[spec.run_id] = None
    try:
        record.batch = plan_batch(spec)
    except PlanError as error:
        record.state, record.ended_at = RunState.FAILED, life.now
        record.cause = Cause.USER_ERROR
        record.detail = f"{error.code}: {error.what}; fix: {', or '.join(error.fix)}"
        return
    if why := life.dependencies.join(record):
        record.state, record.ended_at = RunState.FAILED, life.now
        record.cause, record.detail = Cause.DEPENDENCY_FAILED, why
        return
    life.num_unfinished += 1
    life.wait(record)


def cancel(life: Lifecycle, event: CancelRequested) -> None:
    """Stop a run for good: after its epoch, or now."""
    record = life.runs.get(event.run_id)
    if record is None:
        return
    if record.state is RunState.PENDING:
        life.leave_queue(record)
        life.end(record, CancelRequested, RunState.CANCELLED, detail="cancelled while waiting")
    elif record.state in (RunState.STARTING, RunState.RUNNING):
        mode = None
        if record.state is RunState.RUNNING and not event.now:
            mode = StopMode.AFTER_EPOCH
        elif record.state is RunState.RUNNING and record.spec.warm:
            mode = StopMode.ABANDON  # its process can train the next run; killed after the grace
        life.stop(record, CancelRequested, StopReason.CANCELLED, mode)
        is_polite = mode is StopMode.AFTER_EPOCH
        record.detail = "cancelled; leaves after its epoch" if is_polite else "cancelled"
    else:
        record.move(CancelRequested, record.state, life.now)
        if record.state is RunState.STOPPING:
            life.changed[event.run_id] = None
            record.stop, record.detail = StopReason.CANCELLED, "cancelled"
            if event.now:
                life.kill(record)


def resume(life: Lifecycle, event: ResumeRequested) -> None:
    """Go on with a run that was cancelled or has failed, with a fresh retry budget."""
    record = life.runs.get(event.run_id)
    if record is None:
        return
    life.changed[event.run_id] = None
    if record.state not in (RunState.CANCELLED, RunState.FAILED) or record.batch is None:
        record.move(ResumeRequested, record.state, life.now)
        if record.stop is StopReason.CANCELLED:
            record.stop, record.detail = StopReason.PREEMPTED, "resumed; the gang leaves first"
        return
    record.move(ResumeRequested, RunState.PENDING, life.now)
    record.faults, record.ran_seconds = Faults(), 0.0
    record.ended_at = record.cause = None
    record.detail, record.gpu = "resumed", ""
    record.order = life.next_order()
    life.num_unfinished += 1
    if why := life.dependencies.join(record):
        life.end(record, Bereft, RunState.FAILED, detail=why, cause=Cause.DEPENDENCY_FAILED)
    else:
        life.wait(record)


def reprioritize(life: Lifecycle, event: PriorityChanged) -> None:
    """Move a run in the queue, and in the order in which gangs are asked to leave."""
    record = life.runs.get(event.run_id)
    if record is None:
        return
    record.move(PriorityChanged, record.state, life.now)
    life.changed[event.run_id] = None
    life.reorder(record, event.priority, record.order)


def move(life: Lifecycle, event: RunMoved) -> None:
    """Give a run another place among those of its priority; it lasts until the run has ended."""
    record = life.runs.get(event.run_id)
    if record is None:
        return
    record.move(RunMoved, record.state, life.now)
    if record.state.is_terminal:
        return
    if event.before is not None:
        other = life.runs.get(event.before)
        is_near = other is not None and other is not record and other.priority == record.priority
        if other is None or not is_near or other.state.is_terminal:
            return
        order = life.order_before(other, record)
    else:
        order = life.next_order() if event.to_end else life.first_order()
    life.changed[event.run_id] = None
    life.reorder(record, record.priority, order)


def drain(life: Lifecycle, event: DrainRequested) -> None:
    """Let every gang leave, and start nothing until the next driver has come."""
    life.is_draining = True
    for record in life.runs.values():
        if record.state in (RunState.STARTING, RunState.RUNNING):
            is_polite = record.state is RunState.RUNNING and not event.now
            mode = record.saving_mode if is_polite else None
            life.stop(record, DrainRequested, StopReason.PREEMPTED, mode)
            record.detail = "its driver leaves; it goes on with the next one"
        elif record.state is RunState.STOPPING and event.now:
            record.move(DrainRequested, RunState.STOPPING, life.now)
            life.kill(record)


def end_drain(life: Lifecycle, _event: DrainEnded) -> None:
    """The next driver has come."""
    life.is_draining = False
    life.queue.forget()


def set_rule(life: Lifecycle, event: QueueChanged) -> None:
    """Give a queue another weight or quota; gangs that run go on even where it is smaller."""
    life.fair.rules[event.rule.name] = event.rule
    life.queue.forget()
    for shape in life.queue.shapes.values():
        if shape.queue == event.rule.name:
            life.changed.update((run_id, None) for _, _, run_id in shape.waiting)


def mended(life: Lifecycle, event: PlaceMended) -> None:
    """Trust a card or a node again that was put aside."""
    life.health.trust(event.node_id, event.card)
    trust_changed(life)
