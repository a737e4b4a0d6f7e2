"""Runs that may be on some nodes only: where they go, for whom room is made, what is told."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.messages import NodeChanged, NodeJoined, NodeTypesOffered, TimePassed
from orchestrator.schedule.asks import Ask, could_hold
from orchestrator.schedule.assign import Seeker, Speeds, Spot, assign
from orchestrator.schedule.demand import Want, demand
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.vacancy import empty
from orchestrator.selectors import admits, is_met, normal, values_in
from orchestrator.store.codec import decode, encode
from orchestrator.types import (
    DeviceKind,
    Node,
    NodeId,
    NodeType,
    PendingReason,
    RunId,
    RunSpec,
    RunState,
)
from tests.schedule.laws import may_be_on
from tests.schedule.test_scheduler import HUGE, LARGE, SMALL, Desk
from tests.strategies import GIB, LABELS, make_node, make_spec

A, B = {"zone": "a"}, {"zone": "b"}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def join(desk: Desk, name: str, labels: Mapping[str, str], *cards: tuple[str, int]) -> None:
    node = make_node(name, *(cards or (LARGE,)), labels=labels)
    kind = NodeChanged if NodeId(name) in desk.world.nodes else NodeJoined
    desk.world.tell(kind(at=desk.world.now, node=node))


def nodes_of(desk: Desk, run: str) -> set[str]:
    return {node for node, _ in desk.where(run)}


def told(desk: Desk, run: str) -> str:
    found = desk.scheduler.explain(RunId(run), desk.world.now)
    return "\n".join((found.summary, found.asks, *found.available, *found.remedies))


# --- conditions

VALUES = st.text("abc", min_size=1, max_size=2)


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", "a", False),
        ("!a", None, True),
        ("in(a,b)", "b", True),
        ("in(a,b)", None, False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", None, True),
        ("!in(a,b)", "a", False),
    ],
)
def test_conditions_are_met_as_ray_has_it(
    condition: str, value: str | None, expected: bool
) -> None:
    assert is_met(condition, value) is expected


@given(st.lists(VALUES, min_size=1, max_size=4), st.booleans(), st.none() | VALUES)
def test_equal_conditions_have_one_form(
    values: list[str], is_negative: bool, value: str | None
) -> None:
    sign = "!" if is_negative else ""
    forms = {normal("k", f"{sign}in({gap.join(order)})") for gap in (",", ", ")
             for order in (values, values[::-1], values * 2)}  # fmt: skip
    (form,) = forms
    assert normal("k", form) == form
    assert set(values_in(form)) == set(values)
    assert is_met(form, value) is ((value in values) is not is_negative)
    node = make_node("n", labels={} if value is None else {"k": value})
    spec = make_spec(labels={"k": form})
    assert may_be_on(spec, node) is admits((("k", form),), node.labels)


@pytest.mark.parametrize(
    "condition", ["", "-a", "a b", "in()", "in(a", "!!a", "in(a,!b)", "a" * 64]
)
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        normal("zone", condition)


@pytest.mark.parametrize("key", ["", "a b", "Up/zone", "zone/", "-a", "a" * 64])
def test_what_is_no_label_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is no label"):
        normal(key, "a")


# --- where

SHAPES: tuple[dict[str, object], ...] = (
    {},
    {"gib": 4},
    {"num_gpus": 2},
    {"num_gpus": 2, "gib": 4},
    {"device": DeviceKind.CPU, "num_cpus": 2.0},
)


@pytest.mark.parametrize("by_speed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("labels", [B, {"zone": "!a"}, {"zone": "in(b,c)"}])
def test_a_run_goes_to_the_node_that_has_the_labels(
    labels: dict[str, str], shape: dict[str, object], by_speed: bool
) -> None:
    for asked in (labels, {}):
        desk = Desk(Scheduler(places_by_speed=by_speed))
        join(desk, "first", A, LARGE, LARGE)
        join(desk, "small", A, SMALL, SMALL)
        join(desk, "right", B, HUGE, HUGE)  # the last choice by every other rule
        desk.submit(replace(make_spec("r", **shape), labels=asked))  # type: ignore[arg-type]
        assert (nodes_of(desk, "r") == {"right"}) is bool(asked)


def test_cards_that_refuse_a_run_are_left_to_others() -> None:
    """The slow card is worth less, and the only one for the run with labels."""
    speeds = Speeds(
        alone={(name, kind): speed for name in "xy" for kind, speed in (("s", 1.0), ("f", 3.0))},
        reference="s",
    )
    here, there = (("zone", "a"),), (("zone", "b"),)
    seekers = [
        Seeker(run_id=RunId("confined"), signature="x", memory_bytes=None, labels=here),
        Seeker(run_id=RunId("free"), signature="y", memory_bytes=None),
        Seeker(run_id=RunId("nowhere"), signature="y", memory_bytes=None, labels=there),
    ]
    spots = [
        Spot(name="slow", kind="s", free_bytes=GIB, refuses=frozenset({there})),
        Spot(name="fast", kind="f", free_bytes=GIB, refuses=frozenset({here, there})),
    ]
    found = assign(seekers, spots, speeds)
    assert found.places == {"confined": "slow", "free": "fast"}
    assert found.waiting == ("nowhere",)


def test_a_gang_is_spread_over_matching_nodes_only(desk: Desk) -> None:
    for name, labels in (("a", A), ("b", B), ("c", B), ("d", A)):
        join(desk, name, labels, LARGE, LARGE)
    desk.submit(make_spec("gang", num_gpus=4, labels=B))
    assert nodes_of(desk, "gang") == {"b", "c"}
    desk.submit(make_spec("mixed", num_gpus=3, labels=B))
    assert desk.status("mixed").reason is PendingReason.EXCLUDED_BY_LABELS


def test_a_gang_of_mixed_cards_stays_on_its_nodes(desk: Desk) -> None:
    join(desk, "a", A, LARGE, LARGE, LARGE)
    join(desk, "b", B, LARGE, SMALL)
    join(desk, "c", B, HUGE)
    desk.submit(make_spec("gang", num_gpus=3, labels=B))
    assert nodes_of(desk, "gang") == {"b", "c"}


def test_a_node_that_gets_the_labels_gets_the_run_and_keeps_it_when_it_loses_them(
    desk: Desk,
) -> None:
    join(desk, "n", A)
    desk.submit(make_spec("r", labels=B), make_spec("next", labels=B))
    assert desk.status("r").reason is PendingReason.NO_MATCHING_LABELS
    join(desk, "n", B)
    assert nodes_of(desk, "r") == {"n"}
    join(desk, "n", A)
    desk.up("r")
    desk.finish("r")
    assert desk.state("next") is RunState.PENDING
    join(desk, "m", B)
    assert nodes_of(desk, "next") == {"m"}


# --- for whom room is made, and kept


def test_only_gangs_on_matching_nodes_are_asked_to_leave(desk: Desk) -> None:
    join(desk, "a", A)
    join(desk, "b", B)
    desk.submit(make_spec("on-b", labels=B, priority=20), make_spec("on-a", labels=A, priority=10))
    desk.up("on-a", "on-b")
    desk.submit(make_spec("urgent", labels=B, priority=90))
    assert desk.state("on-a") is RunState.RUNNING  # although it is the one that goes first
    assert desk.state("on-b") is RunState.STOPPING
    desk.yield_("on-b")
    assert nodes_of(desk, "urgent") == {"b"}


@pytest.mark.parametrize("num_cpus", [0.0, 1.0])
def test_a_spread_gang_clears_matching_nodes_only(desk: Desk, num_cpus: float) -> None:
    for name, labels in (("a", A), ("b", B), ("c", B)):
        join(desk, name, labels)
    specs = [
        make_spec(f"on-{name}", priority=10, labels=labels, num_cpus=num_cpus)
        for name, labels in (("b", B), ("c", B), ("a", A))
    ]
    desk.submit(*specs)
    desk.up("on-a", "on-b", "on-c")
    other = make_spec("other", num_gpus=2, priority=40, labels=A, num_cpus=num_cpus)
    desk.submit(other)  # counted before, at the same priority and size, for other nodes
    desk.submit(make_spec("gang", num_gpus=2, priority=40, labels=B, num_cpus=num_cpus))
    assert desk.state("on-a") is RunState.RUNNING
    assert desk.state("on-b") is desk.state("on-c") is RunState.STOPPING


def test_two_spread_gangs_of_one_size_count_their_own_nodes(desk: Desk) -> None:
    for name, labels in (("a", A), ("b", A), ("c", B), ("d", B)):
        join(desk, name, labels)
    for name, labels in (("w", A), ("x", A), ("y", B), ("z", B)):
        desk.submit(make_spec(name, labels=labels, priority=95 if labels is A else 10))
        desk.up(name)
    desk.submit(make_spec("vain", num_gpus=2, priority=40, labels=A))
    desk.submit(make_spec("gang", num_gpus=2, priority=40, labels=B))
    assert desk.state("y") is desk.state("z") is RunState.STOPPING
    assert desk.state("w") is desk.state("x") is RunState.RUNNING


def test_room_is_kept_on_matching_nodes_and_given_up_when_they_match_no_more(desk: Desk) -> None:
    for name in ("b1", "b2"):
        join(desk, name, B, LARGE, LARGE)
    join(desk, "a", A, LARGE, LARGE)
    shares = [make_spec(f"s{n}", labels=B, epochs=100) for n in range(4)]
    desk.submit(*shares)
    desk.up("s0", "s1", "s2", "s3")
    desk.submit(make_spec("gang", num_gpus=2, labels=B))
    desk.pass_time(700.0)
    desk.submit(make_spec("late", labels=B))
    (kept,) = desk.scheduler._life.dispatch.claims.nodes(RunId("gang"))
    assert kept in ("b1", "b2")
    join(desk, kept, A, LARGE, LARGE)
    assert kept not in desk.scheduler._life.dispatch.claims.nodes(RunId("gang"))
    leaver = next(s.run_id for s in shares if nodes_of(desk, s.run_id) == {kept})
    desk.finish(leaver)
    assert desk.state("gang") is RunState.PENDING
    desk.submit(make_spec("unlabelled", num_gpus=1))
    assert desk.state("unlabelled") is not RunState.PENDING


# --- what an autoscaler is asked for

PLAIN = NodeType(
    name="plain", gpu="RTX 4090", num_cards=1, memory_bytes=24 * GIB, price=1.0, max_nodes=8
)
IN_B = replace(PLAIN, name="in-b", price=3.0, labels={"orc.node-type": "in-b", "zone": "b"})


def wanted(*specs: RunSpec) -> list[Want]:
    return [Want(run_id=s.run_id, ask=Ask.of(s), is_spread=s.num_gpus > 1) for s in specs]


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_only_types_with_the_labels_are_asked_for(num_gpus: int) -> None:
    labelled = make_spec("labelled", labels=B, num_gpus=num_gpus)
    found = demand(wanted(make_spec("any"), labelled), (PLAIN, IN_B), [], {})
    kinds = {(node.node_type, run) for node in found.nodes for run in node.runs}
    assert ("in-b", "labelled") in kinds
    assert ("plain", "labelled") not in kinds
    assert demand(wanted(labelled), (PLAIN,), [], {}).left_out == ("labelled",)
    assert demand(wanted(labelled), (PLAIN, IN_B), [empty(PLAIN)], {}).soon == ()
    assert not could_hold(Ask.of(labelled), (PLAIN,))
    assert could_hold(Ask.of(labelled), (PLAIN, IN_B))


def test_a_run_waits_for_a_node_with_its_labels(desk: Desk) -> None:
    join(desk, "here", A)
    desk.world.tell(NodeTypesOffered(at=0.0, node_types=(PLAIN, IN_B), late_after_seconds=900.0))
    desk.submit(make_spec("r", labels=B), make_spec("never", labels={"zone": "z"}))
    desk.pass_time(3.0)
    assert desk.world.asked == {"in-b": 1}
    assert desk.status("r").reason is PendingReason.WAITING_FOR_NODE
    assert desk.status("never").reason is PendingReason.NO_MATCHING_LABELS
    assert "node type plain (RTX 4090 24.0 GiB): 0 of 8 there (does not match)" in told(desk, "r")
    assert "no node is zone=z; the nearest values: b, a" in told(desk, "never")
    node = make_node("n", LARGE, labels=IN_B.labels)
    desk.world.tell(NodeJoined(at=desk.world.now, node=replace(node, node_type="in-b")))
    assert nodes_of(desk, "r") == {"n"}


def test_a_larger_card_is_looked_for_where_the_run_may_be(desk: Desk) -> None:
    join(desk, "a", A, HUGE)
    join(desk, "b", B, LARGE)
    desk.submit(make_spec("r", gib=20, labels=B))
    largest = desk.scheduler._life.router.largest(Ask.of(make_spec(gib=20, labels=B)))
    assert largest == LARGE[1]


# --- what is told


def test_a_label_nobody_has_is_told_with_the_nearest(desk: Desk) -> None:
    join(desk, "a", {"zone": "west-1", "disk": "ssd"})
    join(desk, "b", {"zone": "west-2"})
    desk.submit(make_spec("key", labels={"zones": "west-1"}))
    desk.submit(make_spec("value", labels={"zone": "west1"}), make_spec("both", labels={
        "zone": "west-2", "disk": "ssd"}))  # fmt: skip
    desk.submit(make_spec("none", labels={"zone": "!in(west-1,west-2)"}))
    assert "every node is left out by zone=!in(west-1,west-2)" in told(desk, "none")
    for run in ("key", "value", "both", "none"):
        assert desk.status(run).reason is PendingReason.NO_MATCHING_LABELS
    key, value, both = (told(desk, run) for run in ("key", "value", "both"))
    assert "1 x GPU, a whole card each, on nodes with zones=west-1" in key
    assert "no node has a label zones; the nearest: zone" in key
    assert "no label zones; 0 nodes are west-1" in key
    assert "zone=west1 on 0 of 2 nodes" in value
    assert "no node is zone=west1; the nearest values: west-1, west-2" in value
    assert "label zone: west-1 (1), west-2 (1); 0 nodes are west1" in value
    assert "disk=ssd, zone=west-2 on 0 of 2 nodes" in both
    assert "label disk: ssd (1); 1 nodes are ssd" in both


def test_room_elsewhere_is_told_as_excluded_by_labels(desk: Desk) -> None:
    join(desk, "a", A, LARGE, LARGE)
    join(desk, "b", B, LARGE)
    desk.submit(make_spec("holder", labels=B), make_spec("r", labels=B))
    found = desk.scheduler.explain(RunId("r"), desk.world.now)
    assert found.reason is PendingReason.EXCLUDED_BY_LABELS
    assert not found.reason.needs_person
    assert "RTX 4090 24.0 GiB: 3 total, 1 on nodes with its labels, 0 with room for it" in (
        found.available
    )
    assert [line.split()[1] for line in found.blockers] == ["holder"]
    desk.submit(make_spec("x", num_gpus=2))
    assert desk.status("r").reason is PendingReason.WAITING_FOR_GPU  # no room anywhere


def test_a_gang_wider_than_the_nodes_with_its_labels(desk: Desk) -> None:
    join(desk, "a", A, LARGE, LARGE)
    join(desk, "b", B, LARGE)
    desk.submit(make_spec("r", num_gpus=2, labels=B))
    found = desk.scheduler.explain(RunId("r"), desk.world.now)
    assert found.reason is PendingReason.EXCEEDS_CLUSTER
    assert "more than the nodes with its labels have" in found.summary
    assert any("resources.labels" in remedy for remedy in found.remedies)
    desk.submit(replace(make_spec("one", num_gpus=2, labels=A), is_on_one_node=True))
    assert nodes_of(desk, "one") == {"a"}


def test_cpus_are_told_of_the_nodes_where_it_may_be(desk: Desk) -> None:
    big = replace(make_node("big", labels=A), num_cpus=64.0)
    for node in (big, make_node("b", labels=B)):
        desk.world.tell(NodeJoined(at=0.0, node=node))
    desk.submit(make_spec("r", device=DeviceKind.CPU, num_cpus=16.0, labels=B))
    assert desk.status("r").reason is PendingReason.EXCEEDS_CLUSTER
    assert "CPUs of one node: 8 at most" in told(desk, "r")


# --- what is recorded


@given(LABELS)
def test_labels_are_recorded_and_journals_without_them_are_read(labels: dict[str, str]) -> None:
    event = NodeJoined(at=0.0, node=make_node("n", LARGE, labels=labels))
    assert decode(encode(event)) == event
    written = encode(NodeJoined(at=0.0, node=Node(node_id=NodeId("n"), cards=())))
    before = written.replace(',"labels":{}', "")
    assert before != written
    assert decode(before) == decode(written)
    assert decode(encode(TimePassed(at=1.0))) == TimePassed(at=1.0)
