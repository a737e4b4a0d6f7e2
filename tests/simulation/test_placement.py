"""The comparison of placements is told from values worked out by hand."""

import pytest

from jobs.bench_placement import CardSum, bench, best_of_all, total
from orchestrator.schedule.assign import Objective, Speeds

SPEEDS = Speeds(
    alone={
        (name, kind): rate * factor
        for name, rate in (("quick", 10.0), ("slow", 1.0))
        for kind, factor in (("k80", 0.25), ("p100", 0.5), ("v100", 1.0))
    },
    beside={("quick", "slow", "v100"): 9.0, ("slow", "quick", "v100"): 0.5},
    reference="v100",
)


def test_every_row_says_how_far_from_the_best_and_the_simple_rules_it_is() -> None:
    rows = bench(SPEEDS, ["quick", "slow"], 2, "test")
    assert [(row["objective"], row["size"]) for row in rows[:2]] == [
        ("worth", "small"),
        ("worth", "medium"),
    ]
    assert len(rows) == 8
    for row in rows:
        assert row["below_first_fit"] == 0
        assert row["first_fit_times_min"] >= 1
        assert row.get("of_best_min", 1.0) == pytest.approx(1.0)


def test_the_best_of_all_shares_a_card_where_that_adds_most() -> None:
    worth = CardSum(SPEEDS, Objective.WORTH)
    assert best_of_all(["quick", "slow"], ["v100"], worth) == pytest.approx(1.4)
    assert best_of_all(["quick", "slow"], ["v100", "p100"], worth) == pytest.approx(1.5)
    assert best_of_all(["quick", "quick"], ["v100"], worth) == pytest.approx(1.0)
    steps = CardSum(SPEEDS, Objective.STEPS)
    assert total([["quick"], ["slow"]], ["k80", "v100"], steps) == pytest.approx(3.5)
