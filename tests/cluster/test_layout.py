"""A machine becomes one Ray node a kind of card, and their parts add up to the machine."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.layout import CARDS_NAME, planned_nodes, told_cards
from orchestrator.types import Card

GIB = 1024**3


def card(index: int, kind: int, *, is_emulated: bool = False) -> Card:
    name = f"Card/{kind} (x)"
    return Card(index=index, name=name, memory_bytes=(kind + 1) * GIB, is_emulated=is_emulated)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 64), st.booleans())
def test_every_card_is_in_one_node_of_its_kind_and_nothing_is_counted_twice(
    kinds: list[int], num_cpus: int, is_emulated: bool
) -> None:
    cards = [card(index, kind, is_emulated=is_emulated) for index, kind in enumerate(kinds)]
    plans = planned_nodes(cards, num_cpus, 100 * GIB)
    assert len(plans) == len(set(kinds))
    assert sorted(c.name for plan in plans for c in plan.cards) == sorted(c.name for c in cards)
    assert all(len({c.name for c in plan.cards}) == 1 for plan in plans)
    assert sum(plan.memory_bytes for plan in plans) == 100 * GIB
    assert all(plan.num_cpus >= 1 for plan in plans)
    assert sum(plan.num_cpus for plan in plans) <= max(num_cpus, num_cpus + len(plans) - 1)


def test_real_cards_keep_their_places_on_the_bus() -> None:
    plans = planned_nodes([card(0, 0), card(1, 1), card(2, 0)], 8, 90 * GIB)
    assert [plan.environment["CUDA_VISIBLE_DEVICES"] for plan in plans] == ["0,2", "1"]
    assert {plan.environment["CUDA_DEVICE_ORDER"] for plan in plans} == {"PCI_BUS_ID"}
    assert [dict(plan.labels) for plan in plans] == [
        {"orc.card": "Card-0-x", "orc.card-gib": "1"},
        {"orc.card": "Card-1-x", "orc.card-gib": "2"},
    ]


def test_emulated_cards_are_told_to_their_node_and_count_from_zero_there() -> None:
    cards = [card(index, kind, is_emulated=True) for index, kind in enumerate((0, 1, 1))]
    (_, second) = planned_nodes(cards, 2, 10 * GIB)
    variables = second.environment
    assert variables["CUDA_VISIBLE_DEVICES"] is None
    told = told_cards({CARDS_NAME: str(variables[CARDS_NAME])})
    assert told == second.cards
    assert [c.index for c in second.cards] == [0, 1]
    assert second.labels["orc.emulated"] == "true"


def test_a_machine_without_cards_is_one_node() -> None:
    (plan,) = planned_nodes([], 4, GIB)
    assert (plan.kind, plan.cards, plan.num_cpus, plan.memory_bytes) == ("cpu", (), 4, GIB)
    assert told_cards({}) is None
