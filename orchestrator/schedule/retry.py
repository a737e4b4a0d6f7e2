"""What follows when an attempt ends badly: again, cut smaller, on a larger card, or given up."""

from dataclasses import dataclass, replace

from orchestrator.plan.batch import smaller
from orchestrator.schedule.runs import Faults
from orchestrator.types import BatchPlan, Cause, RetryBudget, Seconds

__all__ = ["Again", "GiveUp", "backoff_seconds", "decide"]

INFRASTRUCTURE_BASE_SECONDS = 2.0
USER_ERROR_BASE_SECONDS = 10.0
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


def backoff_seconds(base: Seconds, num_failures: int) -> Seconds:
    """Return base, 2 base, 4 base, ... up to five minutes."""
    doublings = min(num_failures - 1, 16)  # far above the cap; keeps the power finite
    return min(base * 2.0**doublings, MAX_BACKOFF_SECONDS)


def decide(
    cause: Cause, *, faults: Faults, budget: RetryBudget, batch: BatchPlan
) -> Again | GiveUp:
    """Decide by the cause; the three budgets are counted apart.

    Args:
        cause: What the world reported.
        faults: What was spent before.
        budget: How often a run may fail; one failure more and it is given up.
        batch: The cut of the attempt that failed.

    Returns:
        `Again` with the faults counted, or `GiveUp`. Loss of the driver counts for nothing.
    """
    if cause is Cause.OUT_OF_MEMORY:
        return _cut(faults, budget, batch)
    if cause is Cause.DRIVER_LOST:
        return Again(faults=faults, batch=batch)
    if cause.is_infrastructure:
        num = faults.losses_without_progress + 1
        faults = replace(faults, losses_without_progress=num)
        if num > budget.losses_without_progress:
            return GiveUp(faults=faults, why=f"lost {num} times without completing an epoch")
        wait = backoff_seconds(INFRASTRUCTURE_BASE_SECONDS, num)
        return Again(faults=faults, batch=batch, wait_seconds=wait)
    return _user_fault(cause, faults, budget, batch)


def _user_fault(
    cause: Cause, faults: Faults, budget: RetryBudget, batch: BatchPlan
) -> Again | GiveUp:
    if cause is Cause.DATA_ERROR:
        return GiveUp(faults=faults, why="the data has to be corrected first, so it is not retried")
    num = faults.user_errors + 1
    faults = replace(faults, user_errors=num)
    if num > budget.user_errors:
        return GiveUp(faults=faults, why=f"failed {num} times (retry.user_errors allows {num - 1})")
    wait = backoff_seconds(USER_ERROR_BASE_SECONDS, num)
    return Again(faults=faults, batch=batch, wait_seconds=wait)


def _cut(faults: Faults, budget: RetryBudget, batch: BatchPlan) -> Again | GiveUp:
    num = faults.out_of_memory + 1
    faults = replace(faults, out_of_memory=num)
    if num > budget.out_of_memory:
        return GiveUp(faults=faults, why=f"ran out of memory {num} times")
    cut = smaller(batch)
    if cut is None:
        return Again(faults=faults, batch=batch, needs_larger_card=True)
    return Again(faults=faults, batch=cut)
