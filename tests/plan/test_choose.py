"""The laws of the plan: the batch is exact, the budget is kept, more memory never takes away."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.plan.batch import balanced
from orchestrator.plan.budget import Headroom, budget_of, share_of
from orchestrator.plan.choose import (
    Choice,
    Ladder,
    choose,
    cut_sizes,
    infer_batch,
    known_sizes,
    need_of,
)
from orchestrator.plan.footprint import Demand
from orchestrator.plan.ladder import DEFAULT_LADDER, Rung
from orchestrator.plan.workload import OptimizerState, StepKind, Workload
from tests.plan.hand_made import CONTEXT, GIB, MIB, Lines, job, need, scales, target

BATCHES = st.integers(1, 200)
LINES = st.builds(
    Lines,
    fixed=st.integers(10 * MIB, 2 * GIB),
    slope=st.integers(1 * MIB, 900 * MIB),
)
LADDERS = st.permutations([*DEFAULT_LADDER, Rung.IMGSZ]).flatmap(
    lambda rungs: st.integers(0, len(rungs)).map(
        lambda count: Ladder(rungs=rungs[:count], least_imgsz=320)
    )
)
BUDGETS = st.integers(64 * MIB, 100 * GIB)


class Peaks(Lines):
    """Needs most in the update of the weights or in the backward pass, whichever is more."""

    def demand(self, workload: Workload, size: int) -> Demand:
        kept = {OptimizerState.CARD: 4, OptimizerState.EIGHT_BIT: 3, OptimizerState.HOST: 0}
        update = self.fixed + self.fixed * kept[workload.optimizer_state] // 2
        backward = Lines(fixed=self.fixed, slope=self.slope).demand(workload, size)
        most = max(update, backward.allocated_bytes)
        return Demand(micro_batch=size, allocated_bytes=most, reserved_bytes=most, least_bytes=most)


PEAKS = st.builds(
    Peaks, fixed=st.integers(10 * MIB, 2 * GIB), slope=st.integers(1 * MIB, 2000 * MIB)
)


def test_of_equal_numbers_of_pieces_the_even_one_is_taken() -> None:
    assert balanced(33, 32) == 17
    assert balanced(32, 32) == 32
    assert balanced(10, 4) == 4
    found = choose(
        job(33),
        target(),
        need(job().train, Lines().demand(job().train, 32), target()),
        scales(Lines()),
    )
    assert found.batch.pieces == (17, 16)


@given(batch=BATCHES, limit=st.none() | BATCHES)
def test_there_is_one_size_for_each_number_of_pieces(batch: int, limit: int | None) -> None:
    sizes = cut_sizes(batch, limit)
    top = batch if limit is None else min(batch, limit)
    every = {balanced(batch, size) for size in range(1, top + 1)}
    assert list(sizes) == sorted(every, reverse=True)
    assert sizes[-1] == 1


@settings(deadline=None)
@given(
    rank_batch=BATCHES, world=st.integers(1, 8), limit=st.none() | BATCHES, budget=BUDGETS,
    lines=LINES, ladder=LADDERS,
)  # fmt: skip
def test_the_batch_is_exact_and_what_fits_is_within_the_budget(
    rank_batch: int, world: int, limit: int | None, budget: int, lines: Lines, ladder: Ladder
) -> None:
    asked = job(rank_batch * world, world=world, limit=limit)
    found = choose(asked, target(), budget, scales(lines), ladder)
    assert sum(found.batch.pieces) * world == found.batch.effective_batch == rank_batch * world
    assert found.batch.micro_batch <= (limit or rank_batch)
    assert found.fits == (found.need_bytes <= budget)
    again = need_of(found.job, found.batch.micro_batch, target(), budget, scales(lines))
    assert again.need_bytes == found.need_bytes
    validation = lines.demand(found.job.validate, 2 * found.batch.micro_batch)
    assert found.need_bytes >= need(found.job.validate, validation, target())
    assert (Rung.CUT in found.rungs) == (
        found.batch.micro_batch < balanced(rank_batch, limit or rank_batch)
    )
    assert set(found.rungs) <= set(ladder.rungs)


@given(batch=BATCHES, lines=LINES, ladder=LADDERS, budget=BUDGETS, more=st.integers(0, 20 * GIB))
def test_more_memory_never_takes_anything_away(
    batch: int, lines: Lines, ladder: Ladder, budget: int, more: int
) -> None:
    few = choose(job(batch), target(), budget, scales(lines), ladder)
    many = choose(job(batch), target(), budget + more, scales(lines), ladder)
    assume(few.fits)
    assert many.fits
    assert len(many.rungs) <= len(few.rungs)
    assert many.job.train.imgsz >= few.job.train.imgsz
    if many.job == few.job:
        assert many.batch.micro_batch >= few.batch.micro_batch


@given(batch=BATCHES, lines=LINES, budget=BUDGETS)
def test_the_next_larger_cut_would_not_have_fitted(batch: int, lines: Lines, budget: int) -> None:
    found = choose(job(batch), target(), budget, scales(lines), Ladder(rungs=(Rung.CUT,)))
    larger = [size for size in cut_sizes(batch, None) if size > found.batch.micro_batch]
    for size in larger if found.fits else ():
        assert not need_of(job(batch), size, target(), budget, scales(lines)).fits


def test_rungs_are_climbed_in_the_order_of_the_config_and_named() -> None:
    lines = Lines(fixed=GIB, slope=600 * MIB)

    def climb(budget: int, *rungs: Rung) -> Choice:
        return choose(job(16), target(), budget, scales(lines), Ladder(rungs=rungs))

    assert climb(20 * GIB).rungs == ()
    assert climb(6 * GIB, Rung.CUT).rungs == (Rung.CUT,)
    amp_first = climb(8 * GIB, Rung.AMP, Rung.CUT)
    assert amp_first.rungs == (Rung.AMP,)
    assert amp_first.job.train.precision == "fp16"
    assert amp_first.batch.accumulation_steps == 1
    tight = climb(1750 * MIB, *DEFAULT_LADDER)
    assert tight.rungs == (Rung.CUT, Rung.AMP, Rung.CHECKPOINTING, Rung.OPTIMIZER_8BIT)
    assert tight.fits
    none = climb(500 * MIB, *DEFAULT_LADDER)
    assert not none.fits
    assert none.batch.micro_batch == 1


@pytest.mark.parametrize(
    ("gib", "rungs"),
    [
        (3.2, (Rung.CUT, Rung.OPTIMIZER_8BIT)),  # half precision would win nothing: left out
        (2.8, (Rung.CUT, Rung.OPTIMIZER_HOST)),
        (2.0, (Rung.CUT, Rung.AMP, Rung.OPTIMIZER_HOST)),  # now it wins: the state is gone
    ],
)
def test_a_rung_that_wins_nothing_waits_until_it_does(gib: float, rungs: tuple[Rung, ...]) -> None:
    lines = Peaks(fixed=GIB, slope=1100 * MIB)
    found = choose(job(16), target(), int(gib * GIB), scales(lines))
    assert (found.fits, found.rungs) == (True, rungs)
    won = [found.saved[rung] for rung in rungs if rung is not Rung.CUT]
    assert all(each > 0 for each in won)


@given(
    lines=PEAKS, ladder=LADDERS, budget=st.integers(CONTEXT, 4 * GIB), more=st.integers(0, 4 * GIB)
)
def test_nor_does_more_memory_take_away_where_rungs_wait(
    lines: Lines, ladder: Ladder, budget: int, more: int
) -> None:
    few = choose(job(16), target(), budget, scales(lines), ladder)
    many = choose(job(16), target(), budget + more, scales(lines), ladder)
    assume(few.fits)
    assert many.fits
    assert len(many.rungs) <= len(few.rungs)
    assert all(each > 0 for each in few.saved.values())


def test_nothing_but_the_cut_is_tried_where_no_process_would_fit() -> None:
    lines = Lines(fixed=200 * MIB)  # of which 50 are weights
    for budget, is_tried in (
        (CONTEXT, False),
        (CONTEXT + 33 * MIB, False),
        (CONTEXT + 300 * MIB, True),
    ):
        lines.asked.clear()
        found = choose(job(batch=64), target(), budget, scales(lines))
        assert not any(each.is_checkpointed for each in lines.asked) is not is_tried
        assert any(each.is_cut for each in lines.asked)
        assert found.fits is is_tried
        assert found.need_bytes > budget or is_tried


def test_smaller_pictures_only_where_they_are_allowed() -> None:
    lines = Lines(fixed=100 * MIB, slope=2 * GIB)
    rungs = (Rung.CUT, Rung.IMGSZ)
    without = choose(job(4), target(), 2 * GIB, scales(lines), Ladder(rungs=rungs))
    assert not without.fits
    assert without.job.train.imgsz == 640
    found = choose(job(4), target(), 2 * GIB, scales(lines), Ladder(rungs=rungs, least_imgsz=320))
    assert found.fits
    assert found.rungs == rungs
    assert found.job.train.imgsz == found.job.validate.imgsz == 512
    assert found.job.train.imgsz % 32 == 0


def test_validation_decides_where_it_needs_more() -> None:
    lines = Lines(fixed=GIB, slope=100 * MIB)
    crowded = job(8)
    found = need_of(crowded, 8, target(), 64 * GIB, scales(lines))
    assert found.decided_by is StepKind.TRAIN

    class Dense(Lines):
        def demand(self, workload, size):  # type: ignore[no-untyped-def] # as in Lines
            factor = 9 if workload.kind is StepKind.VALIDATE else 1
            plain = Lines(fixed=self.fixed, slope=self.slope * factor)
            return plain.demand(workload, size)

    dense = Dense(fixed=GIB, slope=100 * MIB)
    found = need_of(crowded, 8, target(), 64 * GIB, scales(dense))
    assert found.decided_by is StepKind.VALIDATE


@given(
    needs=st.lists(st.integers(1, 20 * GIB), min_size=1, max_size=20),
    gib=st.integers(4, 80),
    foreign=st.integers(0, 2 * GIB),
    kept=st.builds(Headroom, num_bytes=st.none() | st.integers(0, GIB)),
)
def test_needs_of_runs_that_share_a_card_add_up_to_at_most_its_budget(
    needs: list[int], gib: int, foreign: int, kept: Headroom
) -> None:
    card = target(gib, foreign=foreign)
    budget, free = budget_of(card, kept), card.memory_bytes - card.foreign_bytes
    used = planned = 0
    for each in needs:  # as the scheduler does: while there is room for the share
        share = share_of(each, card, kept)
        assert each <= share
        assert (share <= free) == (each <= budget)
        if used + share <= free:
            used, planned = used + share, planned + each
    assert planned <= budget


@given(lines=LINES, budget=BUDGETS)
def test_the_inference_batch_is_the_largest_that_fits(lines: Lines, budget: int) -> None:
    size, bytes_needed = infer_batch(job().train, target(), budget, scales(lines), most=256)
    assert 0 <= size <= 256
    if size:
        assert bytes_needed <= budget
    if size < 256:
        larger = lines.demand(
            # what is inferred has no labels and no gradients
            job().validate, size + 1,
        )  # fmt: skip
        assert need(job().train, larger, target()) > budget - 64 * MIB  # slack between points


@given(batch=st.integers(1, 4000))
def test_footprints_are_known_from_the_smallest_to_the_largest_cut(batch: int) -> None:
    sizes = known_sizes(job(batch), StepKind.TRAIN)
    assert sizes[0] == 1
    assert sizes[-1] == batch
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= 12
    twice = known_sizes(job(batch), StepKind.VALIDATE)
    assert twice == tuple(2 * size for size in sizes)
    assert known_sizes(job(batch), StepKind.TRAIN, is_cut=False) == (batch,)


def test_fewer_samples_than_ranks_are_a_bug_of_the_caller() -> None:
    assert job(10, world=3).rank_batch == 4
    with pytest.raises(ValueError, match="ranks"):
        job(2, world=3)
