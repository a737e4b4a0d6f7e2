"""Asking for nodes as a fold over events: what is asked when, who gets a node that comes."""

from dataclasses import dataclass, field, replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.messages import (
    AskNodes,
    Event,
    GangFinished,
    GangStarted,
    NodeChanged,
    NodeJoined,
    NodeLost,
    NodeTypesOffered,
    RunSubmitted,
    TimePassed,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Card, Node, NodeId, NodeType, PendingReason, RunId, RunState
from tests.schedule.world import World
from tests.strategies import GIB, make_spec

SMALL = NodeType(
    name="small", gpu="RTX 4090", num_cards=1, memory_bytes=24 * GIB, price=1.0, max_nodes=4
)
BIG = NodeType(
    name="big", gpu="A100 80GB", num_cards=1, memory_bytes=80 * GIB, price=4.0, max_nodes=2
)
LATE = 900.0


@dataclass
class Provider:
    """Brings the nodes that are asked for, in an order of the test's choosing; takes idle ones."""

    world: World = field(default_factory=lambda: World(Scheduler()))
    types: tuple[NodeType, ...] = (SMALL, BIG)
    num_brought: int = 0

    def __post_init__(self) -> None:
        self.tell(NodeJoined(at=0.0, node=Node(node_id=NodeId("head"), cards=())))
        self.tell(
            NodeTypesOffered(
                at=0.0, node_types=self.types, spare_seconds=60.0, late_after_seconds=LATE
            )
        )

    def tell(self, event: Event) -> None:
        self.world.tell(event)
        self.world.now = max(self.world.now, event.at)

    def submit(self, *gib: float, first: int = 0, num_gpus: int = 1, priority: int = 50) -> None:
        for n, size in enumerate(gib, first):
            spec = make_spec(f"r{n}", gib=size, num_gpus=num_gpus, priority=priority)
            self.tell(RunSubmitted(at=self.world.now, spec=spec))

    def settle(self) -> dict[str, int]:
        """Time passes until the scheduler has looked; what it asks for."""
        wakeup = self.world.scheduler.next_wakeup
        assert wakeup is not None
        self.tell(TimePassed(at=wakeup))
        return self.world.asked

    def bring(self, kind: NodeType) -> NodeId:
        self.num_brought += 1
        node_id = NodeId(f"{kind.name}-{self.num_brought}")
        cards = tuple(
            Card(index=n, name=kind.gpu, memory_bytes=kind.memory_bytes)
            for n in range(kind.num_cards)
        )
        node = Node(node_id=node_id, cards=cards, node_type=kind.name, num_cpus=kind.num_cpus)
        self.tell(NodeJoined(at=self.world.now, node=node))
        return node_id

    def finish(self) -> None:
        for attempt in tuple(self.world.gangs):
            self.tell(GangStarted(at=self.world.now, attempt=attempt))
            self.tell(GangFinished(at=self.world.now, attempt=attempt))

    def release_idle(self) -> None:
        """What Ray does with idle nodes that are not asked for."""
        busy = {share.node_id for gang in self.world.gangs.values() for share in gang.shares}
        for node_id, node in tuple(self.world.nodes.items()):
            if node.node_type and node_id not in busy and node.node_type not in self.world.asked:
                self.tell(NodeLost(at=self.world.now, node_id=node_id))

    def where(self) -> dict[str, str]:
        return {
            attempt.run_id: gang.shares[0].node_id.split("-")[0]
            for attempt, gang in self.world.gangs.items()
        }

    def waits(self) -> list[str]:
        statuses = self.world.scheduler.statuses()
        return [s.run_id for s in statuses if s.state is RunState.PENDING]

    def told(self, run: str) -> str:
        found = self.world.scheduler.explain(RunId(run), self.world.now)
        return "\n".join((found.summary, found.asks, *found.available, *found.remedies))


@pytest.mark.parametrize("order", set(permutations(["small", "small", "small", "big"])))
def test_runs_go_to_the_nodes_that_were_asked_for_them_in_whatever_order_these_come(
    order: tuple[str, ...],
) -> None:
    provider = Provider()
    provider.submit(10, 10, 20, 20, 40, 40)
    assert provider.settle() == {"small": 3, "big": 1}
    for name in order:
        provider.bring(SMALL if name == "small" else BIG)
    assert provider.waits() == []
    assert provider.where() == {
        **dict.fromkeys(["r0", "r1", "r2", "r3"], "small"),
        **dict.fromkeys(["r4", "r5"], "big"),
    }
    assert provider.settle() == {}


def test_runs_that_are_submitted_together_are_asked_for_together() -> None:
    provider = Provider()
    provider.submit(10)
    assert provider.world.asked == {}
    provider.submit(10, first=1)
    assert provider.settle() == {"small": 1}


def test_the_number_asked_for_counts_the_nodes_that_are_there() -> None:
    provider = Provider()
    provider.submit(20)
    provider.settle()
    provider.bring(SMALL)
    assert provider.settle() == {}
    provider.submit(20, 20, first=1)
    assert provider.settle() == {"small": 3}


def test_what_a_node_has_left_over_goes_to_others_when_those_have_started_whom_it_came_for() -> (
    None
):
    provider = Provider()
    provider.submit(40, 20)
    assert provider.settle() == {"big": 1}
    provider.submit(5, first=2)
    provider.bring(BIG)
    assert provider.where() == {"r0": "big", "r1": "big", "r2": "big"}
    assert provider.settle() == {}


def test_nothing_is_asked_any_more_for_a_run_that_found_room_elsewhere() -> None:
    provider = Provider()
    provider.submit(40, 20)
    provider.settle()
    provider.submit(15, 15, first=2)
    assert provider.settle() == {"big": 1, "small": 1}
    provider.bring(BIG)
    assert "r2" in provider.waits() or "r2" in provider.where()
    provider.settle()
    assert provider.world.asked == ({"small": 1} if provider.waits() else {})


def test_one_of_several_nodes_of_a_gang_is_kept_until_the_others_have_come() -> None:
    provider = Provider()
    provider.submit(20, num_gpus=2)
    assert provider.settle() == {"small": 2}
    provider.bring(SMALL)
    provider.submit(20, first=1, priority=40)
    assert provider.settle() == {"small": 3}
    assert provider.where() == {}
    provider.bring(SMALL)
    assert provider.where() == {"r0": "small"}
    provider.bring(SMALL)
    assert provider.where() == {"r0": "small", "r1": "small"}
    assert provider.settle() == {}


def test_a_kept_node_is_opened_when_the_others_are_late() -> None:
    provider = Provider()
    provider.submit(20, num_gpus=2)
    provider.settle()
    provider.bring(SMALL)
    provider.submit(20, first=1, priority=40)
    provider.settle()
    provider.tell(TimePassed(at=provider.world.now + LATE))
    assert provider.where() == {"r1": "small"}


def test_a_run_that_only_a_node_that_may_come_can_hold_waits_and_says_for_what() -> None:
    provider = Provider()
    provider.submit(40, 90)
    provider.tell(TimePassed(at=3600.0 * 21 + 60.0 * 40))
    reasons = {s.run_id: s.reason for s in provider.world.scheduler.statuses()}
    assert reasons == {"r0": PendingReason.WAITING_FOR_NODE, "r1": PendingReason.NO_MATCHING_GPU}
    assert "waiting for a node of type big, asked 21:40 UTC" in provider.told("r0")
    assert "node type big (A100 80GB 80.0 GiB): 0 of 2 there" in provider.told("r0")
    assert "small (RTX 4090 24.0 GiB): 0 of 4 there (does not match)" in provider.told("r0")


def test_a_node_that_does_not_come_is_told_and_the_run_goes_on_waiting() -> None:
    provider = Provider()
    provider.submit(40)
    provider.settle()
    assert "should have come" not in provider.told("r0")
    provider.tell(TimePassed(at=provider.world.now + LATE + 300))
    told = provider.told("r0")
    assert "of type big, asked 00:00 UTC; it should have come: 20 min ago" in told
    assert "ray status" in told
    assert provider.world.asked == {"big": 1}
    provider.bring(BIG)
    assert provider.where() == {"r0": "big"}


def test_too_few_nodes_are_told() -> None:
    provider = Provider()
    provider.submit(70, 70, 70)
    assert provider.settle() == {"big": 2}
    assert "no more of them may be asked for" in provider.told("r2")
    assert "allow more nodes: max of its type" in provider.told("r2")


def test_nothing_is_asked_for_what_will_have_room_soon_by_the_forecast() -> None:
    provider = Provider()
    provider.submit(20)
    provider.settle()
    provider.bring(SMALL)
    attempt = next(iter(provider.world.gangs))
    provider.tell(GangStarted(at=provider.world.now, attempt=attempt))
    for _ in range(2):  # of three epochs of a second each
        provider.tell(provider.world.progress(attempt))
    provider.submit(20, first=1)
    assert provider.settle() == {}
    assert provider.waits() == ["r1"]


def test_a_driver_that_comes_after_asks_anew_and_forgets_what_its_predecessor_was_offered() -> None:
    provider = Provider()
    provider.submit(40)
    provider.settle()
    second = World(Scheduler())
    for event in provider.world.journal:
        second.scheduler.handle(event)
    assert second.scheduler.statuses() == provider.world.scheduler.statuses()
    for event in second.scheduler.orphans(at=100.0):
        second.scheduler.handle(event)
    reason = second.scheduler.status(RunId("r0")).reason
    assert reason is PendingReason.NO_MATCHING_GPU
    second.scheduler.handle(NodeTypesOffered(at=100.0, node_types=(SMALL, BIG)))
    actions = second.scheduler.handle(TimePassed(at=102.0))
    assert actions == (AskNodes(counts=(("big", 1),)),)


def test_nothing_is_asked_while_a_disk_is_nearly_full() -> None:
    provider = Provider()
    full = Node(node_id=NodeId("head"), cards=(), shortage="the disk is nearly full")
    provider.tell(NodeChanged(at=0.0, node=full))
    provider.submit(40)
    assert provider.settle() == {}
    provider.tell(NodeChanged(at=provider.world.now, node=replace(full, shortage="")))
    assert provider.settle() == {"big": 1}


def test_who_leaves_asks_for_nothing() -> None:
    from orchestrator.messages import DrainRequested

    provider = Provider()
    provider.submit(40)
    assert provider.settle() == {"big": 1}
    provider.tell(DrainRequested(at=10.0))
    assert provider.world.asked == {}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([5.0, 10.0, 20.0, 40.0, 70.0])),
        st.tuples(st.just("gang"), st.sampled_from([10.0, 20.0])),
        st.tuples(st.just("bring"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.just(0)),
        st.tuples(st.just("idle"), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 3.0, 70.0, 1000.0])),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_whatever_happens_everyone_ends_and_the_cluster_goes_back_to_nothing(
    script: list[tuple[str, float]],
) -> None:
    provider = Provider(types=(SMALL, replace(BIG, max_nodes=3)))
    for number, (what, value) in enumerate(script):
        act(provider, what, value, number)
        check_counts(provider)
    for _ in range(200):
        if provider.world.scheduler.is_idle:
            break
        provider.tell(TimePassed(at=provider.world.now + 61.0))
        while bring_asked(provider, 0):
            check_counts(provider)
        provider.finish()
        provider.release_idle()
    assert provider.world.scheduler.is_idle, provider.waits()
    provider.tell(TimePassed(at=provider.world.now + 61.0))
    provider.release_idle()
    assert provider.world.asked == {}
    assert list(provider.world.nodes) == ["head"]


def act(provider: Provider, what: str, value: float, number: int) -> None:
    came = [node_id for node_id, node in provider.world.nodes.items() if node.node_type]
    if what in ("submit", "gang"):
        provider.submit(value, first=number, num_gpus=2 if what == "gang" else 1)
    elif what == "bring":
        bring_asked(provider, int(value))
    elif what == "finish":
        provider.finish()
    elif what == "idle":
        provider.release_idle()
    elif what == "lose" and came:
        provider.tell(NodeLost(at=provider.world.now, node_id=came[int(value) % len(came)]))
    elif what == "wait":
        provider.tell(TimePassed(at=provider.world.now + value))


def bring_asked(provider: Provider, which: int) -> bool:
    """Bring one node of those that are asked for and not there."""
    there = [node.node_type for node in provider.world.nodes.values()]
    missing = [
        kind
        for kind in provider.types
        if provider.world.asked.get(kind.name, 0) > there.count(kind.name)
    ]
    if missing:
        provider.bring(missing[which % len(missing)])
    return bool(missing)


def check_counts(provider: Provider) -> None:
    for kind in provider.types:
        assert provider.world.asked.get(kind.name, 0) <= kind.max_nodes
