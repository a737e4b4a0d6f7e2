"""What follows when an attempt ends badly: again, lighter, on a larger card, or given up."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

from orchestrator.plan.batch import smaller
from orchestrator.schedule.runs import Faults
from orchestrator.types import BatchPlan, Cause, RetryBudget, Seconds

__all__ = ["Again", "GiveUp", "backoff_seconds", "decide", "paid_back"]

MAX_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Try once more after a wait; on a card with more memory where nothing is left to cut."""

    faults: Faults
    batch: BatchPlan
    wait_seconds: Seconds = 0.0
    needs_larger_card: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The budget is spent."""

    faults: Faults
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What one class of causes costs, and how long to wait after it."""

    budget: str  # field of RetryBudget and of Faults
    base_seconds: Seconds
    most_seconds: Seconds = MAX_BACKOFF_SECONDS
    remedy: str = ""


_USER = _Rule(budget="user_errors", base_seconds=10.0)
_LOST = _Rule(budget="losses_without_progress", base_seconds=2.0)
_RULES: Mapping[Cause, _Rule] = {
    Cause.USER_ERROR: _USER,
    Cause.DEPENDENCY_FAILED: _USER,  # ends runs that wait; no attempt reports it
    Cause.NAN_LOSS: _Rule(  # the next attempt begins with the last checkpoint, whose loss was fine
        budget="nan_losses",
        base_seconds=10.0,
        remedy="a lower lr0, amp: bf16 or fp32, or another seed; then resume it",
    ),
    Cause.HANG: _Rule(
        budget="hangs",
        base_seconds=2.0,
        remedy="its stacks tell where it stands; data on a slow disk and workers are usual",
    ),
    Cause.DEVICE_FAULT: _Rule(budget="device_faults", base_seconds=2.0),
    Cause.DISK_FULL: _Rule(  # room appears when a person or another run's end makes it
        budget="disk_full",
        base_seconds=30.0,
        most_seconds=1800.0,
        remedy="free space on the disk of the run's folder; then resume it",
    ),
    Cause.STORAGE_FAULT: _Rule(  # the last attempt has waited for it already
        budget="storage_faults",
        base_seconds=30.0,
        most_seconds=1800.0,
        remedy="see that nodes reach the store of its runs, and may write there; then resume it",
    ),
    Cause.NODE_LOST: _Rule(budget="node_losses", base_seconds=2.0),
    Cause.KILLED: _Rule(budget="kills", base_seconds=2.0),
    Cause.WORKER_LOST: _LOST,
    Cause.START_FAILED: _LOST,
    Cause.HOST_OUT_OF_MEMORY: _LOST,
}
# Infrastructure may fail for ever as long as a run gets on in between.
_PAID_BACK = dict.fromkeys(rule.budget for cause, rule in _RULES.items() if cause.is_infrastructure)
_spent = attrgetter(*_PAID_BACK)


def backoff_seconds(
    base: Seconds, num_failures: int, most: Seconds = MAX_BACKOFF_SECONDS
) -> Seconds:
    """Return base, 2 base, 4 base, ... up to `most`."""
    doublings = min(num_failures - 1, 16)  # far above the cap; keeps the power finite
    return min(base * 2.0**doublings, most)


def paid_back(faults: Faults) -> Faults:
    """What is left of the faults once a further epoch is complete: those of the project itself."""
    if any(_spent(faults)):
        return replace(faults, **dict.fromkeys(_PAID_BACK, 0))
    return faults


def decide(
    cause: Cause,
    *,
    faults: Faults,
    budget: RetryBudget,
    batch: BatchPlan,
    is_lightened: bool = False,
) -> Again | GiveUp:
    """Decide by the cause; every class of causes has a budget of its own.

    Args:
        cause: What the world reported.
        faults: What was spent before.
        budget: How often a run may fail; one failure more and it is given up.
        batch: The cut of the attempt that failed.
        is_lightened: It named a rung with which the next attempt needs less memory.

    Returns:
        `Again` with the faults counted, or `GiveUp`. Loss of the driver counts for nothing.
    """
    if cause is Cause.OUT_OF_MEMORY:
        return _cut(faults, budget, batch, is_lightened=is_lightened)
    if cause is Cause.DRIVER_LOST:
        return Again(faults=faults, batch=batch)
    if cause is Cause.DATA_ERROR:
        return GiveUp(faults=faults, why="the data has to be corrected first, so it is not retried")
    rule = _RULES[cause]
    num = getattr(faults, rule.budget) + 1
    faults = replace(faults, **{rule.budget: num})
    if num > getattr(budget, rule.budget):
        return GiveUp(faults=faults, why=_why(cause, rule, num))
    wait = backoff_seconds(rule.base_seconds, num, rule.most_seconds)
    return Again(faults=faults, batch=batch, wait_seconds=wait)


def _why(cause: Cause, rule: _Rule, num: int) -> str:
    words = f"failed {num} times"
    if cause.is_infrastructure:
        words += " without completing an epoch"
    words += f" (retry.{rule.budget} allows {num - 1})"
    return f"{words}; {rule.remedy}" if rule.remedy else words


def _cut(
    faults: Faults, budget: RetryBudget, batch: BatchPlan, *, is_lightened: bool
) -> Again | GiveUp:
    num = faults.out_of_memory + 1
    faults = replace(faults, out_of_memory=num)
    if num > budget.out_of_memory:
        return GiveUp(faults=faults, why=f"ran out of memory {num} times")
    if is_lightened:
        return Again(faults=faults, batch=batch)
    cut = smaller(batch)
    if cut is None:
        return Again(faults=faults, batch=batch, needs_larger_card=True)
    return Again(faults=faults, batch=cut)
