"""The effective batch is kept exactly, however a step is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.plan.batch import plan_batch, smaller
from orchestrator.types import BatchPlan
from tests.strategies import make_spec

SIZES = st.integers(1, 512)


@given(world=st.integers(1, 64), more=st.integers(0, 512), limit=st.none() | SIZES)
def test_the_pieces_of_all_ranks_add_up_to_the_effective_batch(
    world: int, more: int, limit: int | None
) -> None:
    spec = make_spec(num_gpus=world, batch=world + more, micro_batch=limit)
    plan: BatchPlan | None = plan_batch(spec)
    while plan is not None:
        rank_batch, shares = plan.rank_batch, [plan.share(rank) for rank in range(world)]
        assert [sum(plan.pieces_of(rank)) for rank in range(world)] == shares
        begins = [sum(shares[:rank]) for rank in range(world)]
        assert [plan.begin(rank) for rank in range(world)] == begins
        assert sum(shares) == world + more == plan.effective_batch
        assert rank_batch == max(shares) <= min(shares) + 1
        assert len(plan.pieces) == plan.accumulation_steps
        assert max(plan.pieces) == plan.micro_batch <= (limit or rank_batch)
        cut = smaller(plan)
        assert cut is None or plan.micro_batch / 2 <= cut.micro_batch < plan.micro_batch
        assert cut is None or cut.world_size == world
        plan = cut


def test_a_rank_without_a_sample_is_refused_and_the_batch_is_never_rounded() -> None:
    assert plan_batch(make_spec(num_gpus=3, batch=7)).pieces_of(2) == (2,)
    with pytest.raises(PlanError, match="batch 7") as caught:
        plan_batch(make_spec(num_gpus=8, batch=7))
    assert caught.value.code == "E2002"
    assert caught.value.fix == ("batch=8, or more", "resources.gpus=7")


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
