"""The effective batch is kept exactly, however a step is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.plan.batch import plan_batch, smaller
from orchestrator.types import BatchPlan
from tests.strategies import make_spec

SIZES = st.integers(1, 512)


@given(world=st.integers(1, 64), rank_batch=SIZES, limit=st.none() | SIZES)
def test_the_pieces_of_all_ranks_add_up_to_the_effective_batch(
    world: int, rank_batch: int, limit: int | None
) -> None:
    spec = make_spec(num_gpus=world, batch=world * rank_batch, micro_batch=limit)
    plan: BatchPlan | None = plan_batch(spec)
    while plan is not None:
        assert sum(plan.pieces) * world == world * rank_batch == plan.effective_batch
        assert len(plan.pieces) == plan.accumulation_steps
        assert max(plan.pieces) == plan.micro_batch <= (limit or rank_batch)
        cut = smaller(plan)
        assert cut is None or plan.micro_batch / 2 <= cut.micro_batch < plan.micro_batch
        assert cut is None or cut.world_size == world
        plan = cut


@given(world=st.integers(2, 64), batch=SIZES)
def test_a_batch_that_does_not_divide_is_refused_and_never_rounded(world: int, batch: int) -> None:
    if batch % world == 0:
        assert plan_batch(make_spec(num_gpus=world, batch=batch)).effective_batch == batch
        return
    with pytest.raises(PlanError, match=f"batch {batch}") as caught:
        plan_batch(make_spec(num_gpus=world, batch=batch))
    assert caught.value.code == "E2002"
    for word in caught.value.fix[0].split(" or "):
        near = int(word.removeprefix("batch="))
        assert plan_batch(make_spec(num_gpus=world, batch=near)).effective_batch == near
    gpus = int(caught.value.fix[1].removeprefix("resources.gpus="))
    assert plan_batch(make_spec(num_gpus=gpus, batch=batch)).effective_batch == batch


@pytest.mark.parametrize(
    ("batch", "world", "limit"), [(-1, 1, None), (8, 0, None), (8, 1, 0), (8, -2, None)]
)
def test_numbers_below_one_are_refused(batch: int, world: int, limit: int | None) -> None:
    with pytest.raises(PlanError) as caught:
        plan_batch(make_spec(num_gpus=world, batch=batch, micro_batch=limit))
    assert caught.value.code == "E2001"


def test_one_sample_cannot_be_cut() -> None:
    assert smaller(plan_batch(make_spec(batch=8, micro_batch=1))) is None


def test_the_last_piece_may_be_smaller() -> None:
    assert plan_batch(make_spec(batch=8, micro_batch=3)).pieces == (3, 3, 2)
