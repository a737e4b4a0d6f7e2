"""Widths of runs that may be on some nodes only, as a policy gives them in rounds."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.messages import NodeJoined
from orchestrator.schedule.confined import Area, confined_widths
from orchestrator.schedule.policy import Candidate
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.types import NodeId, RunId, RunState
from tests.schedule.test_scheduler import LARGE, Desk
from tests.strategies import make_node, make_spec

# Three nodes of some cards each; areas lie within one another, apart, and across.
NODES = ("a", "b", "c")
AREAS: tuple[tuple[str, ...] | None, ...] = (("a",), ("b",), ("a", "b"), ("b", "c"), NODES, None)


def candidate(name: str, most: int, left: float) -> Candidate:
    widths = tuple(range(1, most + 1))
    return Candidate(
        run_id=RunId(name),
        widths=widths,
        speedups=tuple(float(width) ** 0.8 for width in widths),
        width=0,
        left_seconds=left,
        attained_seconds=0.0,
        submitted_at=0.0,
        priority=50,
        order=int(name[1:]),
    )


@st.composite
def rounds(
    draw: st.DrawFn,
) -> tuple[list[Candidate], dict[str, int], dict[RunId, tuple[str, ...]]]:
    cards = {name: draw(st.integers(0, 4)) for name in NODES}
    asked = draw(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(1, 1000), st.sampled_from(AREAS)),
            min_size=1,
            max_size=7,
        )
    )
    candidates = [candidate(f"r{n}", most, float(left)) for n, (most, left, _) in enumerate(asked)]
    areas = {RunId(f"r{n}"): area for n, (_, _, area) in enumerate(asked) if area is not None}
    return candidates, cards, areas


def solved(
    candidates: Sequence[Candidate],
    cards: Mapping[str, int],
    areas: Mapping[RunId, tuple[str, ...]],
) -> Mapping[RunId, int]:
    made = {
        run_id: Area(nodes=frozenset(map(NodeId, area)), num_gpus=sum(cards[name] for name in area))
        for run_id, area in areas.items()
    }
    return confined_widths(ShortestFlow(), 0.0, candidates, sum(cards.values()), made)


@settings(deadline=None, max_examples=300)
@given(rounds())
def test_all_gangs_of_a_round_find_their_cards_on_their_nodes(
    given_round: tuple[list[Candidate], dict[str, int], dict[RunId, tuple[str, ...]]],
) -> None:
    candidates, cards, areas = given_round
    widths = solved(candidates, cards, areas)
    for each in candidates:
        assert widths.get(each.run_id, 0) in (0, *each.widths)
    # Hall: whatever nodes are taken together, those confined to them get no more than they have.
    for num in range(len(NODES) + 1):
        for chosen in combinations(NODES, num):
            inside = [r for r, w in widths.items() if set(areas.get(r, NODES)) <= set(chosen)]
            assert sum(widths[r] for r in inside) <= sum(cards[name] for name in chosen)


@settings(deadline=None)
@given(rounds())
def test_areas_with_room_for_all_change_nothing(
    given_round: tuple[list[Candidate], dict[str, int], dict[RunId, tuple[str, ...]]],
) -> None:
    candidates, cards, areas = given_round
    plenty = dict.fromkeys(NODES, sum(cards.values()) + 28)
    free = ShortestFlow().widths(0.0, candidates, sum(plenty.values()))
    assert solved(candidates, plenty, areas) == free


@pytest.mark.parametrize("num_in_a", [1, 2])
def test_elastic_gangs_grow_as_far_as_the_nodes_with_their_labels(num_in_a: int) -> None:
    desk = Desk(Scheduler(policy=ShortestFlow()))
    for name, zone in (("a", "a"), ("b", "b"), ("c", "b")):
        node = make_node(name, LARGE, LARGE, labels={"zone": zone})
        desk.world.tell(NodeJoined(at=0.0, node=node))
    names = [f"in-a{n}" for n in range(num_in_a)]
    for name in names:
        desk.submit(make_spec(name, num_gpus=2, min_gpus=1, epochs=50, labels={"zone": "a"}))
    desk.submit(make_spec("any", num_gpus=4, min_gpus=1, batch=16, epochs=50))
    for _ in range(4):
        desk.pass_time(60.0)
        desk.up(*(name for name in (*names, "any") if desk.state(name) is RunState.STARTING))
        for name in (*names, "any"):
            if desk.state(name) is RunState.STOPPING:
                desk.yield_(name)
    assert [node for name in names for node, _ in desk.where(name)] == ["a", "a"]
    assert {node for node, _ in desk.where("any")} == {"b", "c"}
    assert len(desk.where("any")) == 4
