"""What follows from what a gang tells within an epoch: its pace, and another cut of its steps."""

from dataclasses import replace

from orchestrator.messages import GivenUp, MicroBatchChanged, PaceMeasured
from orchestrator.schedule.current import current
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import RunState

__all__ = ["measured", "recut"]


def measured(life: Lifecycle, event: PaceMeasured) -> None:
    """Steps have told what an epoch takes."""
    record = current(life, event)
    if record is None:
        return
    record.move(PaceMeasured, record.state, life.now)
    if life.sizing is not None and event.pace.epoch == record.epoch + 1:
        life.sizing.measured(record, event.pace)


def recut(life: Lifecycle, event: MicroBatchChanged) -> None:
    """The attempt cuts its steps otherwise; the next one starts with that cut."""
    record = current(life, event)
    if record is None:
        return
    record.move(MicroBatchChanged, record.state, life.now)
    life.changed[record.spec.run_id] = None
    change = event.recut
    if record.batch is not None and not change.in_validation:
        new = min(change.new, record.batch.rank_batch)
        record.batch = replace(record.batch, micro_batch=new)
        if life.dispatch.finding.placing is not None:
            life.dispatch.finding.placing.recut(record, life.now)
    if change.given_up is not None:
        _give_up(record, change.given_up)
    if record.state is RunState.RUNNING and change.given_up is not None:
        told = f"{change.given_up.rung} ({change.given_up.setting})"
        record.detail = f"gave up {told} in epoch {change.epoch}, as nothing was left to cut"
    elif record.state is RunState.RUNNING:
        what = "validation batch" if change.in_validation else "micro-batch"
        record.detail = f"{what} {change.old} -> {change.new} in epoch {change.epoch}"


def _give_up(record: RunRecord, given: GivenUp) -> None:
    """Keep a rung for the next attempts; a later one of the same kind takes the place of it."""
    others = tuple(one for one in record.given_up if one.rung != given.rung)
    record.given_up = (*others, given)
    if not given.is_live:
        record.lightened = record.attempt
