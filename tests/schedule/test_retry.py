"""What follows from a failure depends on its cause; budgets are counted apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.batch import plan_batch
from orchestrator.schedule.retry import MAX_BACKOFF_SECONDS, Again, GiveUp, backoff_seconds, decide
from orchestrator.schedule.runs import Faults
from orchestrator.types import Cause, RetryBudget
from tests.strategies import make_spec

BATCH = plan_batch(make_spec(batch=32))
INFRASTRUCTURE = [c for c in Cause if c.is_infrastructure and c is not Cause.DRIVER_LOST]


def run_out(cause: Cause, budget: RetryBudget, times: int = 10_000) -> tuple[int, Faults]:
    """How often a run may fail for one cause before it is given up."""
    faults, batch = Faults(), BATCH
    for num in range(times):
        verdict = decide(cause, faults=faults, budget=budget, batch=batch)
        faults = verdict.faults
        if isinstance(verdict, GiveUp):
            return num, faults
        batch = verdict.batch
        assert batch.effective_batch == BATCH.effective_batch
    return times, faults


@given(allowed=st.integers(0, 20))
def test_each_budget_is_the_number_of_failures_that_are_forgiven(allowed: int) -> None:
    budget = RetryBudget(
        user_errors=allowed, out_of_memory=allowed, losses_without_progress=allowed
    )
    for cause in Cause:
        if cause not in (Cause.DRIVER_LOST, Cause.DATA_ERROR):
            assert run_out(cause, budget)[0] == allowed


def test_wrong_data_does_not_become_right_by_trying_again() -> None:
    verdict = decide(Cause.DATA_ERROR, faults=Faults(), budget=RetryBudget(), batch=BATCH)
    assert isinstance(verdict, GiveUp)


@pytest.mark.parametrize("cause", INFRASTRUCTURE)
def test_infrastructure_costs_the_project_nothing(cause: Cause) -> None:
    _, faults = run_out(cause, RetryBudget())
    assert (faults.user_errors, faults.out_of_memory) == (0, 0)


def test_a_lost_driver_counts_for_nothing_and_waits_for_nothing() -> None:
    verdict = decide(Cause.DRIVER_LOST, faults=Faults(), budget=RetryBudget(), batch=BATCH)
    assert verdict == Again(faults=Faults(), batch=BATCH)


def test_out_of_memory_halves_the_cut_and_then_asks_for_a_larger_card() -> None:
    faults, batch, sizes = Faults(), BATCH, []
    while True:
        verdict = decide(Cause.OUT_OF_MEMORY, faults=faults, budget=RetryBudget(), batch=batch)
        assert isinstance(verdict, Again)
        if verdict.needs_larger_card:
            break
        faults, batch = verdict.faults, verdict.batch
        sizes.append(batch.micro_batch)
    assert sizes == [16, 8, 4, 2, 1]


@given(num=st.integers(1, 10_000))
def test_backoff_grows_and_is_capped(num: int) -> None:
    assert backoff_seconds(2.0, num) <= backoff_seconds(2.0, num + 1) <= MAX_BACKOFF_SECONDS
