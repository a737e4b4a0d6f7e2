"""Early stopping: who goes on, in which order whatever the reports come."""

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.sweep.stopping import Brackets, Halving


def test_of_three_trials_the_best_goes_on() -> None:
    halving = Halving(grace=1, reduction=3, epochs=9)
    assert not halving.report(1, 1, 0.5)  # the first has nobody to lose to
    assert halving.report(2, 1, 0.4)
    assert not halving.report(3, 1, 0.6)
    assert [rung.epoch for rung in halving.rungs[0]] == [1, 3]


def test_between_rungs_nobody_stops() -> None:
    halving = Halving(grace=1, reduction=3, epochs=9)
    halving.report(1, 1, 0.9)
    halving.report(2, 1, 0.95)
    assert not halving.report(2, 2, -1.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_the_best_so_far_never_stops(scores: list[int]) -> None:
    halving = Halving(grace=1, reduction=3, epochs=3)
    for number, score in enumerate(scores, 1):
        stops = halving.report(number, 1, score)
        assert not (stops and score >= max(scores[:number]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), min_size=9, max_size=60, unique=True))
def test_about_one_of_three_goes_on(scores: list[int]) -> None:
    halving = Halving(grace=1, reduction=3, epochs=3)
    stopped = sum(halving.report(number, 1, score) for number, score in enumerate(scores, 1))
    worse_later = sorted(scores)  # in the worst order, rising, everybody goes on
    assert 0 <= stopped < len(scores)
    rising = Halving(grace=1, reduction=3, epochs=3)
    assert not any(rising.report(n, 1, score) for n, score in enumerate(worse_later, 1))
    falling = Halving(grace=1, reduction=3, epochs=3)
    left = sum(not falling.report(n, 1, s) for n, s in enumerate(reversed(worse_later), 1))
    assert left == 1


def test_brackets_start_at_their_own_graces_and_take_trials_in_turn() -> None:
    brackets = Brackets(grace=1, reduction=3, epochs=9)
    assert [[rung.epoch for rung in each] for each in brackets.rungs] == [[1, 3], [3]]
    for trial in range(1, 31):
        brackets.report(trial, 1, trial / 30)
        brackets.report(trial, 3, trial / 30)
    first, second = brackets.rungs
    assert len(first[0].scores) + len(second[0].scores) == 30
    assert len(first[0].scores) >= len(second[0].scores) > 0
