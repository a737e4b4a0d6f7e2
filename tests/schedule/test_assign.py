"""Who goes to which card and who shares one: laws of the assignment."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schedule.assign import (
    Assignment,
    Objective,
    Seeker,
    Speeds,
    Spot,
    assign,
    in_queue_order,
)
from orchestrator.types import RunId

SIGNATURES = ("a", "b", "c", "d")
KINDS = ("small", "large")
speed = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0, 1.3, 2.0, 9.0])


@st.composite
def tables(draw: st.DrawFn) -> Speeds:
    alone = {key: draw(speed) for key in product(SIGNATURES, KINDS)}
    beside = {
        key: draw(speed) for key in product(SIGNATURES, SIGNATURES, KINDS) if draw(st.booleans())
    }
    return Speeds(alone=alone, beside=beside, reference="large")


def seekers(most: int = 6, *, ranks: int = 0) -> st.SearchStrategy[list[Seeker]]:
    made = st.builds(
        Seeker,
        run_id=st.just(RunId("")),
        signature=st.sampled_from(SIGNATURES),
        memory_bytes=st.sampled_from([1, 3, 4, None]),
        kinds=st.sampled_from([(), ("small",)]),
        rank=st.integers(0, ranks),
    )
    return st.lists(made, max_size=most).map(
        lambda found: [replace(s, run_id=RunId(f"r{at}")) for at, s in enumerate(found)]
    )


def spots(most: int = 4) -> st.SearchStrategy[list[Spot]]:
    made = st.builds(
        Spot,
        name=st.just(""),
        kind=st.sampled_from(KINDS),
        free_bytes=st.integers(0, 8),
        beside=st.sampled_from([(), (), ("a",), ("b",), ("a", "c")]),
    )
    return st.lists(made, max_size=most).map(
        lambda found: [
            replace(s, name=f"c{at}", is_whole=not s.beside) for at, s in enumerate(found)
        ]
    )


def added(
    there: Sequence[Seeker], spot: Spot, speeds: Speeds, objective: Objective, most: int = 2
) -> float | None:
    """What a card adds to the sum, told card by card from the rules; None when it cannot be."""
    if not there:
        return 0.0
    names = [*spot.beside, *(s.signature for s in there)]
    is_alone = len(names) == 1 and spot.is_whole
    if (
        len(names) > most
        or any(s.kinds and spot.kind not in s.kinds for s in there)
        or (None in {s.memory_bytes for s in there} and not is_alone)
        or sum(s.memory_bytes or 0 for s in there) > spot.free_bytes
    ):
        return None
    before = summed_speeds(list(spot.beside), spot.kind, speeds, objective)
    after = summed_speeds(names, spot.kind, speeds, objective)
    return None if before is None or after is None else after - before


def summed_speeds(
    names: Sequence[str], kind: str, speeds: Speeds, objective: Objective
) -> float | None:
    scales = speeds.scales(objective)
    total = 0.0
    for at, name in enumerate(names):
        alone = speeds.alone[name, kind]
        shares = [
            speeds.beside.get((name, other, kind), 0.0) / alone if alone else 0.0
            for other_at, other in enumerate(names)
            if other_at != at
        ]
        if not alone or not all(shares):
            return None
        total += prod(shares) * alone * scales[name]
    return total


def by_card(found: Assignment, runs: Sequence[Seeker]) -> dict[str, list[Seeker]]:
    there: dict[str, list[Seeker]] = defaultdict(list)
    for run in runs:
        if run.run_id in found.places:
            there[found.places[run.run_id]].append(run)
    return there


def summed(
    there: dict[str, list[Seeker]],
    cards: Sequence[Spot],
    speeds: Speeds,
    objective: Objective,
    most: int = 2,
) -> float:
    sums = [added(there.get(card.name, []), card, speeds, objective, most) for card in cards]
    assert None not in sums, "a card holds what it cannot"
    return sum(value for value in sums if value is not None)


def first_fit(
    runs: Sequence[Seeker], cards: Sequence[Spot], speeds: Speeds, objective: Objective
) -> dict[str, list[Seeker]]:
    there: dict[str, list[Seeker]] = {card.name: [] for card in cards}
    for run in runs:
        for card in cards:
            if added([*there[card.name], run], card, speeds, objective) is not None:
                there[card.name].append(run)
                break
    return there


@given(
    runs=seekers(8, ranks=2),
    cards=spots(),
    speeds=tables(),
    objective=st.sampled_from(Objective),
    most=st.integers(1, 4),
)
def test_cards_hold_what_they_can_and_the_sum_is_that_of_the_cards(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds, objective: Objective, most: int
) -> None:
    found = assign(runs, cards, speeds, objective=objective, most=most)
    there = by_card(found, runs)
    assert found.gain == pytest.approx(summed(there, cards, speeds, objective, most))
    assert set(found.places.values()) <= {card.name for card in cards}
    ids = [run.run_id for run in runs]
    assert Counter([*found.places, *found.waiting]) == Counter(ids)
    assert list(found.waiting) == [run_id for run_id in ids if run_id in found.waiting]


@given(runs=seekers(), cards=spots(), speeds=tables(), objective=st.sampled_from(Objective))
def test_never_worse_than_first_fit(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds, objective: Objective
) -> None:
    found = assign(runs, cards, speeds, objective=objective)
    plain = summed(first_fit(runs, cards, speeds, objective), cards, speeds, objective)
    assert found.gain >= plain - 1e-6


@given(runs=seekers(4), cards=spots(3), speeds=tables(), objective=st.sampled_from(Objective))
def test_a_few_runs_on_a_few_cards_are_placed_best(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds, objective: Objective
) -> None:
    best = 0.0
    for choice in product(range(-1, len(cards)), repeat=len(runs)):
        sums = [
            added(
                [r for r, c in zip(runs, choice, strict=True) if c == at], card, speeds, objective
            )
            for at, card in enumerate(cards)
        ]
        if None not in sums:
            best = max(best, sum(value for value in sums if value is not None))
    assert assign(runs, cards, speeds, objective=objective).gain == pytest.approx(best)


@given(runs=seekers(12, ranks=1), cards=spots(8), speeds=tables())
def test_equal_input_gives_equal_output(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds
) -> None:
    assert assign(runs, cards, speeds) == assign(runs, cards, speeds)


@given(runs=seekers(12, ranks=1), cards=spots(6), speeds=tables())
def test_of_equal_runs_the_first_in_the_queue_are_placed(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds
) -> None:
    found = assign(runs, cards, speeds)
    alike: dict[Seeker, list[bool]] = defaultdict(list)
    for run in runs:
        alike[replace(run, run_id=RunId(""))].append(run.run_id in found.places)
    for placed in alike.values():
        assert placed == sorted(placed, reverse=True)


@given(runs=seekers(8, ranks=2), cards=spots(), speeds=tables())
def test_lower_ranks_take_nothing_from_those_before_them(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds
) -> None:
    whole = assign(runs, cards, speeds)
    for rank in {run.rank for run in runs}:
        ahead = [run for run in runs if run.rank <= rank]
        assert assign(ahead, cards, speeds).places.items() <= whole.places.items()


@given(runs=seekers(12, ranks=1), num=st.integers(0, 5))
def test_ranks_by_the_queue_keep_its_order_and_are_as_large_as_the_cards_allow(
    runs: list[Seeker], num: int
) -> None:
    ranked = in_queue_order(runs, num)
    assert [run.run_id for run in ranked] == [run.run_id for run in runs]
    assert max(Counter(run.rank for run in ranked).values(), default=0) <= max(1, num)
    for (old, new), (other, later) in product(zip(runs, ranked, strict=True), repeat=2):
        if old.rank < other.rank:
            assert new.rank < later.rank
        if old.rank == other.rank and runs.index(old) < runs.index(other):
            assert new.rank <= later.rank


@given(runs=seekers(10, ranks=1), cards=spots(6), speeds=tables())
def test_no_card_stays_as_it_was_that_a_waiting_run_could_use(
    runs: list[Seeker], cards: list[Spot], speeds: Speeds
) -> None:
    found = assign(runs, cards, speeds)
    taken = set(found.places.values())
    for run in runs:
        for card in cards:
            if run.run_id in found.waiting and card.name not in taken:
                gain = added([run], card, speeds, Objective.WORTH)
                assert gain is None or gain <= 1e-6


def test_each_of_many_different_runs_finds_the_one_card_that_it_may_have() -> None:
    num = 300  # more than are weighed at a time
    order = [at * 7 % num for at in range(num)]
    kinds = [f"kind {at}" for at in range(num)]
    runs = [
        Seeker(run_id=RunId(str(at)), signature=f"run {at}", kinds=(kinds[at],)) for at in order
    ]
    cards = [Spot(name=kind, kind=kind) for kind in kinds]
    speeds = Speeds(alone={(f"run {at}", kind): 1.0 for at, kind in enumerate(kinds)})
    found = assign(runs, cards, speeds)
    assert found.places == {str(at): kind for at, kind in enumerate(kinds)}


def test_a_pair_that_costs_more_than_it_adds_is_not_made() -> None:
    runs = [Seeker(run_id=RunId(name), signature="a") for name in ("first", "second")]
    card = Spot(name="card", kind="large")
    for each, places in ((0.4, {"first": "card"}), (0.6, {"first": "card", "second": "card"})):
        speeds = Speeds(
            alone={("a", "large"): 1.0}, beside={("a", "a", "large"): each}, reference="large"
        )
        assert assign(runs, [card], speeds).places == places


def test_a_third_run_comes_where_pairs_hardly_slow_each_other() -> None:
    runs = [Seeker(run_id=RunId(str(at)), signature="a") for at in range(4)]
    card = Spot(name="card", kind="large")
    for share, most, num in ((0.9, 4, 4), (0.9, 3, 3), (0.9, 2, 2), (0.6, 4, 2), (0.4, 4, 1)):
        speeds = Speeds(alone={("a", "large"): 2.0}, beside={("a", "a", "large"): 2 * share})
        found = assign(runs, [card], speeds, most=most)
        assert list(found.places) == [str(at) for at in range(num)]
        assert found.gain == pytest.approx(num * share ** (num - 1))


def test_worth_counts_runs_alike_and_steps_count_short_steps_most() -> None:
    alone = {("slow", "old"): 0.5, ("slow", "new"): 2.0, ("quick", "old"): 60.0}
    speeds = Speeds(alone=alone | {("quick", "new"): 90.0}, reference="new")
    runs = [Seeker(run_id=RunId(name), signature=name) for name in ("quick", "slow")]
    cards = [Spot(name=kind, kind=kind) for kind in ("old", "new")]
    fair = assign(runs, cards, speeds)
    assert fair.places == {"slow": "new", "quick": "old"}
    assert fair.gain == pytest.approx(1 + 2 / 3)
    plain = assign(runs, cards, speeds, objective=Objective.STEPS)
    assert plain.places == {"slow": "old", "quick": "new"}
    assert plain.gain == pytest.approx(90.5)
