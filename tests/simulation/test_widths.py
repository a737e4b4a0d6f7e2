import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schedule.policy import Candidate
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.types import RunId, Seconds

WIDTHS = (1, 2, 4, 8)


def run_of(name: str, *, widths: Sequence[int] = WIDTHS, power: float = 0.8, width: int = 0,
           left: Seconds | None = 3600.0, attained: float = 0.0, priority: int = 0,
           ) -> Candidate:  # fmt: skip
    return Candidate(
        run_id=RunId(name),
        widths=tuple(widths),
        speedups=tuple(each**power for each in widths),
        width=width,
        left_seconds=left,
        attained_seconds=attained,
        submitted_at=0.0,
        priority=priority,
        order=0,
    )


def group_of(seed: int) -> tuple[list[Candidate], int]:
    """Up to 30 runs of every kind, and some cards."""
    chance = random.Random(seed)
    runs = []
    for number in range(chance.randint(1, 30)):
        widths = sorted(chance.sample([1, 2, 3, 4, 6, 8, 16], chance.randint(1, 7)))
        power = chance.uniform(-0.5, 1.0)
        speedups_now = tuple(each**power for each in widths)
        run = run_of(
            str(number),
            widths=widths,
            power=chance.uniform(-0.5, 1.0),
            width=chance.choice([0, *widths]),
            left=chance.choice([None, 0.0, 10.0 ** chance.uniform(0, 6)]),
            attained=chance.choice([0.0, 10.0 ** chance.uniform(0, 6)]),
            priority=chance.randint(0, 2),
        )
        runs.append(replace(run, speedups_now=chance.choice([None, speedups_now])))
    return runs, chance.randint(1, 64)


groups = st.integers(0, 2**32).map(group_of)


@given(groups)
def test_widths_are_allowed_ones_and_never_more_than_the_cards(
    group: tuple[list[Candidate], int],
) -> None:
    runs, num_gpus = group
    chosen = ShortestFlow().widths(0.0, runs, num_gpus)
    allowed = {run.run_id: run.widths for run in runs}
    assert sum(chosen.values()) <= num_gpus
    assert all(width in allowed[run_id] for run_id, width in chosen.items())


@given(groups)
def test_nobody_waits_for_cards_that_lie_idle(group: tuple[list[Candidate], int]) -> None:
    runs, num_gpus = group
    chosen = ShortestFlow().widths(0.0, runs, num_gpus)
    idle = num_gpus - sum(chosen.values())
    waiting = [run for run in runs if run.run_id not in chosen]
    assert all(run.widths[0] > idle for run in waiting)


@given(groups)
def test_the_answer_depends_on_nothing_but_the_question(
    group: tuple[list[Candidate], int],
) -> None:
    runs, num_gpus = group
    policy = ShortestFlow()
    assert policy.widths(0.0, runs, num_gpus) == policy.widths(99.0, list(runs), num_gpus)


@given(
    st.lists(st.floats(100.0, 1e6), min_size=2, max_size=8),
    st.integers(1, 40),
    st.floats(0.1, 0.95),
)
def test_of_runs_that_scale_alike_the_shorter_has_no_fewer_cards(
    lefts: list[Seconds], num_gpus: int, power: float
) -> None:
    runs = [
        run_of(str(number), widths=range(1, 9), power=power, left=left)
        for number, left in enumerate(sorted(lefts))
    ]
    policy = ShortestFlow(tail_weight=0.0, restart_seconds=0.0)
    chosen = policy.widths(0.0, runs, num_gpus)
    widths = [chosen.get(run.run_id, 0) for run in runs]
    assert widths == sorted(widths, reverse=True)


@given(st.permutations([1000.0, 2000.0, 4000.0, 8000.0]))
def test_of_runs_of_one_width_those_with_the_least_left_go_first(lefts: list[Seconds]) -> None:
    runs = [run_of(str(number), widths=[4], left=left) for number, left in enumerate(lefts)]
    chosen = ShortestFlow().widths(0.0, runs, 9)
    shortest = sorted(runs, key=lambda run: run.left_seconds or 0.0)[:2]
    assert chosen == {run.run_id: 4 for run in shortest}


@pytest.mark.parametrize(("power", "width"), [(1.0, 8), (0.5, 8), (-0.2, 1)])
def test_a_run_alone_gets_the_width_that_ends_it_first(power: float, width: int) -> None:
    assert ShortestFlow().widths(0.0, [run_of("a", power=power)], 64) == {"a": width}


def test_a_run_alone_takes_what_there_is_when_its_best_width_is_too_wide() -> None:
    assert ShortestFlow().widths(0.0, [run_of("a")], 7) == {"a": 4}
    assert ShortestFlow().widths(0.0, [run_of("a", widths=[8])], 7) == {}


def test_cards_go_to_whom_they_speed_up() -> None:
    runs = [run_of("scales", power=0.95), run_of("hardly", power=0.1)]
    assert ShortestFlow().widths(0.0, runs, 9) == {"scales": 8, "hardly": 1}


def test_a_change_that_does_not_pay_for_its_restart_is_not_made() -> None:
    small = run_of("a", widths=[8, 9], power=0.3, width=8)
    assert ShortestFlow().widths(0.0, [small], 64) == {"a": 8}
    assert ShortestFlow(restart_seconds=0.0).widths(0.0, [small], 64) == {"a": 9}
    ending = run_of("a", width=1, left=35.0)
    assert ShortestFlow().widths(0.0, [ending], 64) == {"a": 1}
    assert ShortestFlow().widths(0.0, [replace(ending, left_seconds=1e5)], 64) == {"a": 8}


def test_a_run_about_to_end_is_not_asked_to_leave_for_an_equal_one() -> None:
    running = run_of("running", widths=[4], width=4, left=3600.0)
    other = run_of("other", widths=[4], left=3600.0)
    assert ShortestFlow().widths(0.0, [other, running], 4) == {"running": 4}


def test_without_a_forecast_those_that_had_least_go_first() -> None:
    old = run_of("old", widths=[4], left=None, attained=50_000.0, width=4)
    new = run_of("new", widths=[4], left=None)
    third = run_of("third", widths=[4], left=None, attained=80_000.0)
    assert ShortestFlow().widths(0.0, [old, new, third], 4) == {"new": 4}


def test_without_a_forecast_runs_of_like_length_do_not_take_turns() -> None:
    first = run_of("first", widths=[4], left=None, attained=9000.0, width=4)
    second = run_of("second", widths=[4], left=None, attained=5000.0)
    assert ShortestFlow().widths(0.0, [first, second], 4) == {"first": 4}


def test_a_higher_priority_is_served_first_however_long_it_takes() -> None:
    long = run_of("long", widths=[4], left=1e6, priority=1)
    short = run_of("short", widths=[4], left=60.0)
    assert ShortestFlow().widths(0.0, [short, long], 4) == {"long": 4}
    assert ShortestFlow().widths(0.0, [short, long], 8) == {"long": 4, "short": 4}


def test_the_weight_of_the_tail_gives_the_last_run_more() -> None:
    runs = [run_of(str(number), left=1000.0 * 4**number) for number in range(3)]
    cards = [
        ShortestFlow(tail_weight=weight).widths(0.0, runs, 12).get(RunId("2"), 0)
        for weight in (0.0, 1.0, 4.0)
    ]
    assert cards == sorted(cards)
    assert cards[0] < cards[-1]


def test_a_run_whose_next_work_does_not_scale_leaves_cards_to_others() -> None:
    early = replace(run_of("early"), speedups_now=(1.0, 1.1, 1.1, 1.1))
    assert ShortestFlow().widths(0.0, [run_of("early"), run_of("late")], 9)[RunId("early")] > 1
    assert ShortestFlow().widths(0.0, [early, run_of("late")], 9) == {"early": 1, "late": 8}


def test_where_next_work_scales_as_the_rest_it_changes_nothing() -> None:
    runs = [run_of(str(number), left=1000.0 * 3**number, power=0.7) for number in range(4)]
    told = [replace(run, speedups_now=run.speedups) for run in runs]
    assert ShortestFlow().widths(0.0, told, 20) == ShortestFlow().widths(0.0, runs, 20)


def test_the_weight_of_the_tail_does_not_change_the_order_of_runs_of_one_width() -> None:
    runs = [run_of(str(number), widths=[4], left=1000.0 + 10.0 * number) for number in range(5)]
    assert ShortestFlow(tail_weight=100.0).widths(0.0, runs, 8) == {"0": 4, "1": 4}


def test_the_weight_of_the_tail_is_only_for_ends_that_are_foreseen() -> None:
    runs = [run_of(str(number), left=1000.0 * 4**number) for number in range(3)]
    inferred = [replace(run, is_foreseen=False) for run in runs]
    heavy, none = ShortestFlow(tail_weight=4.0), ShortestFlow(tail_weight=0.0)
    assert heavy.widths(0.0, inferred, 12) == none.widths(0.0, inferred, 12)
    assert heavy.widths(0.0, runs, 12) != none.widths(0.0, runs, 12)


def test_of_ten_thousand_equal_runs_the_first_are_chosen() -> None:
    runs = [run_of(str(number), left=100.0 + number) for number in range(10_000)]
    chosen = ShortestFlow().widths(0.0, runs, 64)
    assert sum(chosen.values()) == 64
    assert all(int(run_id) < 64 for run_id in chosen)
