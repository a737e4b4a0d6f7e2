"""Why a run waits although cards may be free: its queue's quota, or the policy's choice."""

from collections.abc import Iterator

from orchestrator.schedule.fair import FairShare
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import PendingReason

__all__ = ["quota_available", "quota_reason", "quota_remedies", "sharing_sentence"]

_OF_QUOTA = (PendingReason.QUOTA, PendingReason.MISCONFIGURED)


def quota_reason(record: RunRecord, fair: FairShare, num_gpus: float) -> PendingReason | None:
    """The token where the quota of its queue is in the way of so many cards, else None."""
    queue = record.spec.queue
    if not fair.could_ever(queue, num_gpus):
        return PendingReason.MISCONFIGURED
    return None if fair.allows(queue, num_gpus) else PendingReason.QUOTA


def sharing_sentence(record: RunRecord, reason: PendingReason) -> str:
    """Why it waits, in words; empty where neither quota nor policy is the reason."""
    if reason is PendingReason.MISCONFIGURED:
        return "it asks for more cards than its queue may ever hold, so waiting cannot help"
    if reason is PendingReason.QUOTA:
        return "its queue holds as many cards as it may"
    is_policy = record.is_aside and reason is PendingReason.WAITING_FOR_GPU
    return "the policy gives the cards to other runs for now" if is_policy else ""


def quota_available(
    record: RunRecord, reason: PendingReason, fair: FairShare, num_gpus: float
) -> Iterator[str]:
    """What the queue holds, what it may hold, and what the run would add."""
    if reason in _OF_QUOTA:
        queue = record.spec.queue
        yield (
            f"queue {queue}: {fair.num_gpus(queue):g} of {fair.rule(queue).max_gpus:g} cards held,"
            f" {num_gpus:g} asked"
        )


def quota_remedies(record: RunRecord, reason: PendingReason) -> Iterator[str]:
    """What to change where the quota is in the way; another priority would not help."""
    if reason in _OF_QUOTA:
        yield f"raise the quota: cluster.queues.{record.spec.queue}.gpus"
        yield "or take another queue: schedule.queue"
        if record.ask.num_workers > 1:
            yield f"or fewer GPUs: resources.gpus={record.ask.num_workers // 2}"
