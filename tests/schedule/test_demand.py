"""Which nodes are asked for: laws, hand-made cases, and the optimum of small cases."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.schedule import grouping
from orchestrator.schedule.asks import Ask, could_hold
from orchestrator.schedule.demand import Demand, Want, demand
from orchestrator.schedule.vacancy import empty
from orchestrator.types import DeviceKind, NodeType, RunId

GIB = 2**30
SMALL = NodeType(
    name="small", gpu="RTX 4090", num_cards=1, memory_bytes=24 * GIB, price=1.0, max_nodes=8
)
BIG = NodeType(
    name="big", gpu="A100 80GB", num_cards=1, memory_bytes=80 * GIB, price=4.0, max_nodes=4
)
FOUR = NodeType(
    name="four", gpu="L4", num_cards=4, memory_bytes=23 * GIB, price=3.0, max_nodes=4, num_cpus=16
)
HOST = NodeType(name="host", num_cpus=16, host_bytes=64 * GIB, price=0.2, max_nodes=3)


def make_ask(
    gib: float | None = None,
    *,
    workers: int = 1,
    gpu_types: tuple[str, ...] = (),
    cpus: float = 0.0,
    ram_gib: int = 0,
    device: DeviceKind = DeviceKind.GPU,
) -> Ask:
    return Ask(
        device=device,
        num_workers=workers,
        size=None if gib is None else int(gib * GIB),
        gpu_types=gpu_types,
        num_cpus=cpus,
        host_bytes=ram_gib * GIB,
    )


def make_wants(*asks: Ask, is_spread: bool = True) -> list[Want]:
    return [Want(run_id=RunId(f"r{n}"), ask=ask, is_spread=is_spread) for n, ask in enumerate(asks)]


def asked(found: Demand) -> dict[str, list[tuple[str, ...]]]:
    nodes: dict[str, list[tuple[str, ...]]] = {}
    for node in found.nodes:
        nodes.setdefault(node.node_type, []).append(tuple(node.runs))
    return nodes


def ask_for(*asks: Ask, types: Sequence[NodeType] = (SMALL, BIG)) -> Demand:
    return demand(make_wants(*asks), types, [], {})


def test_six_runs_get_the_nodes_that_a_person_would_choose() -> None:
    found = ask_for(*(make_ask(gib) for gib in (10, 10, 20, 20, 40, 40)))
    assert asked(found) == {
        "small": [("r0", "r1"), ("r2",), ("r3",)],
        "big": [("r4", "r5")],
    }


def test_the_dearer_type_is_never_asked_where_the_cheaper_fits() -> None:
    assert asked(ask_for(make_ask(24))) == {"small": [("r0",)]}
    assert asked(ask_for(make_ask(24.1))) == {"big": [("r0",)]}
    assert asked(ask_for(make_ask())) == {"small": [("r0",)]}  # a whole card, of any kind


def test_one_dear_node_is_asked_where_it_is_cheaper_than_many_cheap_ones() -> None:
    found = ask_for(*[make_ask(13)] * 6, types=(SMALL, replace(BIG, price=3.0)))
    assert asked(found) == {"big": [tuple(f"r{n}" for n in range(6))]}


def test_small_runs_share_a_node_by_bytes() -> None:
    found = ask_for(*[make_ask(7.5)] * 9)
    assert [len(runs) for runs in asked(found)["small"]] == [3, 3, 3]


def test_nothing_is_asked_for_what_the_cluster_holds_soon() -> None:
    room = empty(SMALL)
    found = demand(make_wants(make_ask(20), make_ask(20)), [SMALL, BIG], [room], {"small": 1})
    assert found.soon == ("r0",)
    assert asked(found) == {"small": [("r1",)]}


def test_a_card_that_was_named_is_what_comes() -> None:
    assert asked(ask_for(make_ask(4, gpu_types=("A100",)))) == {"big": [("r0",)]}
    found = ask_for(make_ask(4, gpu_types=("H100",)))
    assert asked(found) == {}
    assert found.left_out == ("r0",)


def test_a_gang_goes_to_one_node_where_a_type_holds_it() -> None:
    found = ask_for(make_ask(20, workers=4), types=(SMALL, FOUR))
    assert asked(found) == {"four": [("r0",)]}


def test_a_gang_that_no_type_holds_alone_gets_all_its_nodes_or_none() -> None:
    gang = make_ask(20, workers=3)
    assert asked(ask_for(gang)) == {"small": [("r0",)] * 3}
    few = replace(SMALL, max_nodes=2)
    assert asked(ask_for(gang, types=(few,))) == {}
    assert asked(ask_for(gang, types=(few, BIG))) == {"big": [("r0",)] * 3}


def test_a_gang_that_waits_for_one_node_is_not_spread_over_new_ones() -> None:
    wants = make_wants(make_ask(20, workers=3), is_spread=False)
    assert demand(wants, [SMALL], [], {}).left_out == ("r0",)


def test_what_nodes_of_the_kind_have_free_counts_for_a_gang() -> None:
    found = demand(make_wants(make_ask(20, workers=3)), [SMALL], [empty(SMALL)], {"small": 1})
    assert asked(found) == {"small": [("r0",)] * 2}


def test_what_a_gang_leaves_of_its_nodes_is_used() -> None:
    found = ask_for(make_ask(20, workers=5), make_ask(10), types=(FOUR,))
    assert asked(found) == {"four": [("r0",)] * 2}
    assert found.left_out == ()


def test_cpus_and_ram_decide_where_cards_would_do() -> None:
    thin = replace(FOUR, num_cpus=8, host_bytes=32 * GIB)
    found = ask_for(*[make_ask(5, cpus=4)] * 4, types=(thin,))
    assert [len(runs) for runs in asked(found)["four"]] == [2, 2]
    found = ask_for(*[make_ask(5, ram_gib=20)] * 2, types=(thin,))
    assert [len(runs) for runs in asked(found)["four"]] == [1, 1]


def test_runs_on_the_cpu_get_nodes_without_cards_where_these_are_cheapest() -> None:
    runs = [make_ask(cpus=8, device=DeviceKind.CPU)] * 3
    found = asked(ask_for(*runs, types=(SMALL, HOST)))
    assert sorted(len(ids) for ids in found["host"]) == [1, 2]


def test_as_many_nodes_as_may_be_go_to_those_who_are_ahead() -> None:
    few = replace(SMALL, max_nodes=2)
    found = ask_for(*[make_ask(20)] * 12, types=(few,))
    assert asked(found) == {"small": [("r0",), ("r1",)]}
    assert found.left_out == tuple(f"r{n}" for n in range(2, 12))
    found = demand(make_wants(make_ask(20)), [few], [], {"small": 2})
    assert asked(found) == {}


def test_what_could_ever_be_held() -> None:
    assert could_hold(make_ask(80), [SMALL, BIG])
    assert not could_hold(make_ask(81), [SMALL, BIG])
    assert could_hold(make_ask(20, workers=8), [SMALL])
    assert not could_hold(make_ask(20, workers=9), [SMALL])
    assert not could_hold(make_ask(1), [replace(SMALL, max_nodes=0)])
    assert not could_hold(make_ask(cpus=32, device=DeviceKind.CPU), [HOST])


asks = st.builds(
    make_ask,
    st.one_of(st.none(), st.sampled_from([3.0, 6.0, 8.0, 10.0, 12.0, 20.0, 40.0, 70.0])),
    cpus=st.sampled_from([0.0, 0.0, 4.0]),
)
single_types = st.lists(
    st.builds(
        NodeType,
        name=st.just("t"),
        gpu=st.just("card"),
        num_cards=st.just(1),
        memory_bytes=st.sampled_from([12 * GIB, 24 * GIB, 48 * GIB, 80 * GIB]),
        price=st.sampled_from([0.5, 1.0, 1.7, 2.0, 3.0, 4.0]),
        num_cpus=st.sampled_from([4.0, 8.0]),
        max_nodes=st.integers(0, 4),
    ),
    min_size=1,
    max_size=3,
).map(lambda types: [replace(each, name=f"t{n}") for n, each in enumerate(types)])


def partitions(runs: list[int]) -> Iterator[list[list[int]]]:
    """All ways to put runs into unnamed groups."""
    if not runs:
        yield []
        return
    first, rest = runs[0], runs[1:]
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for at in range(len(smaller)):
            yield [*smaller[:at], [first, *smaller[at]], *smaller[at + 1 :]]


def does_hold(kind: NodeType, group: Sequence[Ask]) -> bool:
    """Told anew, for nodes of one card."""
    if sum(ask.num_cpus for ask in group) > kind.num_cpus:
        return False
    if any(ask.size is None for ask in group):
        return len(group) == 1
    return sum(ask.size or 0 for ask in group) <= kind.memory_bytes


def choices(
    groups: Sequence[Sequence[Ask]], types: Sequence[NodeType], used: tuple[int, ...]
) -> Iterator[float]:
    """Prices of all ways to give every group a type."""
    if not groups:
        yield 0.0
        return
    for at, kind in enumerate(types):
        if used[at] < kind.max_nodes and does_hold(kind, groups[0]):
            taken = (*used[:at], used[at] + 1, *used[at + 1 :])
            for price in choices(groups[1:], types, taken):
                yield price + kind.price


def optimum(wants: Sequence[Ask], types: Sequence[NodeType]) -> tuple[tuple[bool, ...], float]:
    """Who is left out, nobody before others, and the least price; by looking at everything."""
    best: tuple[tuple[bool, ...], float] | None = None
    for mask in range(1 << len(wants)):
        chosen = [n for n in range(len(wants)) if mask >> n & 1]
        out = tuple(n not in chosen for n in range(len(wants)))
        if best is not None and out > best[0]:
            continue
        for groups in partitions(chosen):
            asked_groups = [[wants[n] for n in group] for group in groups]
            for price in choices(asked_groups, types, (0,) * len(types)):
                if best is None or (out, round(price, 6)) < best:
                    best = (out, round(price, 6))
    assert best is not None
    return best


def outcome(
    found: Demand, types: Sequence[NodeType], num_wants: int
) -> tuple[tuple[bool, ...], float]:
    prices = {each.name: each.price for each in types}
    out = tuple(f"r{n}" in found.left_out for n in range(num_wants))
    return out, round(sum(prices[node.node_type] for node in found.nodes), 6)


@settings(max_examples=60, deadline=None)
@given(st.lists(asks, min_size=1, max_size=5), single_types)
def test_few_runs_get_the_cheapest_of_all_possible_nodes(
    wants: list[Ask], types: list[NodeType]
) -> None:
    found = demand(make_wants(*wants), types, [], {})
    assert outcome(found, types, len(wants)) == optimum(wants, types)


@settings(max_examples=60, deadline=None)
@given(st.lists(asks, min_size=1, max_size=5), single_types)
def test_the_way_for_many_runs_is_near_the_optimum(wants: list[Ask], types: list[NodeType]) -> None:
    types = [replace(each, max_nodes=8) for each in types]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "FEW_RUNS", 0)
        found = demand(make_wants(*wants), types, [], {})
    out, price = outcome(found, types, len(wants))
    best_out, best = optimum(wants, types)
    assert out == best_out
    assert best <= price <= best * 2.0 + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.lists(asks, max_size=30), single_types, st.integers(0, 3))
def test_laws_of_every_demand(wants: list[Ask], types: list[NodeType], num_free: int) -> None:
    rooms = [empty(types[0]) for _ in range(num_free)]
    there = {types[0].name: num_free}
    found = demand(make_wants(*wants), types, rooms, there)
    again = [empty(types[0]) for _ in range(num_free)]
    assert found == demand(make_wants(*wants), types, again, there), "equal asks, equal nodes"
    ids = [run for node in found.nodes for run in node.runs]
    told = [*ids, *found.soon, *found.left_out]
    assert sorted(told) == sorted(want.run_id for want in make_wants(*wants))
    by_name = {each.name: each for each in types}
    by_run = {want.run_id: want.ask for want in make_wants(*wants)}
    for node in found.nodes:
        kind = by_name[node.node_type]
        assert does_hold(kind, [by_run[run] for run in node.runs])
        others = [t for t in types if t.price < kind.price]
        counts = {t.name: sum(n.node_type == t.name for n in found.nodes) for t in others}
        for other in others:
            is_left = counts[other.name] + there.get(other.name, 0) < other.max_nodes
            held = does_hold(other, [by_run[run] for run in node.runs])
            assert not (is_left and held), "a dearer type although the cheaper fits"
    for each in types:
        num = sum(node.node_type == each.name for node in found.nodes)
        assert num + there.get(each.name, 0) <= max(each.max_nodes, there.get(each.name, 0))
