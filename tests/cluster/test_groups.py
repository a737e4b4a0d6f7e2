"""Shares of cards in Ray's units: what fits in bytes fits in units, and never more."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.groups import UNITS, UnitLedger, bundle_of_cards, units_of
from orchestrator.types import AttemptId, Card, NodeId, RunId, Share

GIB = 1024**3


def share(memory_bytes: int) -> Share:
    return Share(node_id=NodeId("a"), card=0, memory_bytes=memory_bytes)


def attempt(number: int) -> AttemptId:
    return AttemptId(run_id=RunId("r"), number=number)


@given(total=st.integers(GIB, 200 * GIB), part=st.floats(0.001, 1.0))
def test_units_never_promise_less_than_the_budget(total: int, part: float) -> None:
    budget = max(1, int(total * part))
    assert 1 <= units_of(budget, total) <= UNITS
    assert units_of(budget, total) * total >= budget * UNITS
    assert (units_of(budget, total) - 1) * total < budget * UNITS


@given(total=st.integers(GIB, 200 * GIB), parts=st.lists(st.integers(1, 1000), max_size=20))
def test_budgets_that_add_up_to_the_card_always_fit(total: int, parts: list[int]) -> None:
    ledger = UnitLedger()
    card = Card(index=0, name="c", memory_bytes=total)
    whole = sum(parts)
    taken = [
        ledger.take(attempt(number), share(max(1, total * part // whole)), card)
        for number, part in enumerate(parts)
    ]
    assert all(units >= 1 for units in taken)
    assert sum(taken) <= UNITS


@given(
    parts=st.lists(st.integers(1, 10_000_000), min_size=1, max_size=40),
    ends=st.lists(st.integers(0, 39), max_size=40),
)
def test_tiny_shares_fit_beside_large_ones_whoever_came_and_left_before(
    parts: list[int], ends: list[int]
) -> None:
    ledger = UnitLedger()
    card = Card(index=0, name="c", memory_bytes=sum(parts))
    held = {n: ledger.take(attempt(n), share(part), card) for n, part in enumerate(parts)}
    assert min(held.values()) >= 1
    assert sum(held.values()) <= UNITS
    for number in ends:
        gone = number % len(parts)
        ledger.give_back(attempt(gone))
        del held[gone]
        held[gone] = ledger.take(attempt(gone), share(parts[gone]), card)
        assert held[gone] >= 1
        assert sum(held.values()) <= UNITS


def test_eleven_shares_below_a_step_fit_beside_two_halves_of_the_rest() -> None:
    ledger = UnitLedger()
    card = Card(index=0, name="c", memory_bytes=2_000_011)
    sizes = [1_000_000, 1_000_000, *[1] * 11]
    taken = [ledger.take(attempt(n), share(size), card) for n, size in enumerate(sizes)]
    assert taken == [5000, 4989, *[1] * 11]


def test_what_does_not_fit_asks_for_all_its_units_and_so_waits() -> None:
    ledger = UnitLedger()
    card = Card(index=0, name="c", memory_bytes=3 * GIB)
    assert [ledger.take(attempt(i), share(GIB), card) for i in range(3)] == [3334, 3334, 3332]
    assert ledger.take(attempt(3), share(GIB), card) == 3334
    ledger.give_back(attempt(0))
    assert ledger.take(attempt(4), share(GIB), card) == 3334


def test_a_node_is_idle_when_nobody_holds_any_of_its_cards() -> None:
    ledger = UnitLedger()
    assert ledger.is_idle(NodeId("a"))
    ledger.take(attempt(1), share(GIB), Card(index=0, name="c", memory_bytes=2 * GIB))
    assert not ledger.is_idle(NodeId("a"))
    assert ledger.is_idle(NodeId("b"))
    ledger.give_back(attempt(1))
    assert ledger.is_idle(NodeId("a"))


def test_the_bundle_of_a_card_is_learned_from_what_processes_saw_in_it() -> None:
    cards = tuple(
        Card(index=index, name="c", memory_bytes=GIB, uuid=f"GPU-{index}{index}")
        for index in (0, 2)
    )
    assert bundle_of_cards(cards, (("2",), ("0",))) == {2: 0, 0: 1}
    assert bundle_of_cards(cards, (("GPU-00",), ("1",), ("GPU-22",))) == {0: 0, 2: 2}
    assert bundle_of_cards(cards, (("0", "2"),)) == {}
