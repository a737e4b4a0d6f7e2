"""What follows from a failure depends on its cause; budgets are counted apart."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.batch import plan_batch
from orchestrator.schedule.retry import (
    MAX_BACKOFF_SECONDS,
    Again,
    GiveUp,
    backoff_seconds,
    decide,
    paid_back,
)
from orchestrator.schedule.runs import Faults
from orchestrator.types import Cause, RetryBudget
from tests.strategies import make_spec

BATCH = plan_batch(make_spec(batch=32))
BUDGETS = [field.name for field in fields(RetryBudget)]
AMPLE = RetryBudget(**dict.fromkeys(BUDGETS, 1000))
PROJECTS = [Cause.USER_ERROR, Cause.NAN_LOSS, Cause.OUT_OF_MEMORY]
NO_ATTEMPT_S = (Cause.DRIVER_LOST, Cause.DATA_ERROR, Cause.DEPENDENCY_FAILED)
ALL = [c for c in Cause if c not in NO_ATTEMPT_S]
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
    budget = RetryBudget(**dict.fromkeys(BUDGETS, allowed))
    for cause in Cause:
        if cause not in (Cause.DRIVER_LOST, Cause.DATA_ERROR):
            assert run_out(cause, budget)[0] == allowed


def test_wrong_data_does_not_become_right_by_trying_again() -> None:
    verdict = decide(Cause.DATA_ERROR, faults=Faults(), budget=RetryBudget(), batch=BATCH)
    assert isinstance(verdict, GiveUp)


@pytest.mark.parametrize("cause", INFRASTRUCTURE)
def test_infrastructure_costs_the_project_nothing(cause: Cause) -> None:
    _, faults = run_out(cause, RetryBudget())
    assert (faults.user_errors, faults.nan_losses, faults.out_of_memory) == (0, 0, 0)
    assert paid_back(faults) == Faults(), "a further epoch pays for it"


@pytest.mark.parametrize("cause", PROJECTS)
def test_what_is_the_project_s_own_fault_stays_counted_over_the_whole_run(cause: Cause) -> None:
    _, faults = run_out(cause, RetryBudget())
    assert paid_back(faults) == faults != Faults()


@given(causes=st.lists(st.sampled_from(ALL), max_size=30))
def test_no_cause_is_counted_in_the_budget_of_another_class(causes: list[Cause]) -> None:
    together, alone = Faults(), dict.fromkeys(BUDGETS, 0)
    for cause in causes:
        one = decide(cause, faults=Faults(), budget=AMPLE, batch=BATCH).faults
        for name in BUDGETS:
            alone[name] += getattr(one, name)
        together = decide(cause, faults=together, budget=AMPLE, batch=BATCH).faults
    assert together == Faults(**alone)


def test_every_class_of_causes_but_the_shared_one_has_a_budget_of_its_own() -> None:
    counted: dict[str, list[Cause]] = {}
    for cause in ALL:
        faults = decide(cause, faults=Faults(), budget=AMPLE, batch=BATCH).faults
        for name in BUDGETS:
            if getattr(faults, name):
                counted.setdefault(name, []).append(cause)
    shared = counted.pop("losses_without_progress")
    assert shared == [Cause.HOST_OUT_OF_MEMORY, Cause.WORKER_LOST, Cause.START_FAILED]
    assert all(len(causes) == 1 for causes in counted.values())
    assert set(counted) == set(BUDGETS) - {"losses_without_progress"}


def test_a_full_disk_is_waited_for_longer_than_anything_else() -> None:
    def waits(cause: Cause) -> list[float]:
        faults, seconds = Faults(), []
        for _ in range(9):
            verdict = decide(cause, faults=faults, budget=AMPLE, batch=BATCH)
            assert isinstance(verdict, Again)
            faults = verdict.faults
            seconds.append(verdict.wait_seconds)
        return seconds

    full = waits(Cause.DISK_FULL)
    assert full[0] == 30.0
    assert full[-1] == 1800.0
    assert waits(Cause.STORAGE_FAULT) == full
    for cause in set(INFRASTRUCTURE) - {Cause.DISK_FULL, Cause.STORAGE_FAULT}:
        assert all(a > b for a, b in zip(full, waits(cause), strict=True))


@pytest.mark.parametrize(
    "cause", [Cause.NAN_LOSS, Cause.DISK_FULL, Cause.STORAGE_FAULT, Cause.HANG]
)
def test_what_is_given_up_names_its_key_and_a_remedy(cause: Cause) -> None:
    faults = Faults(**dict.fromkeys(BUDGETS, 100))
    verdict = decide(cause, faults=faults, budget=RetryBudget(), batch=BATCH)
    assert isinstance(verdict, GiveUp)
    assert "retry." in verdict.why
    assert len(verdict.why.split("; ")) >= 2


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
