"""Queues with weights and quotas: who goes next is told as the scheduler would take them."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.client.places import in_turn, place
from orchestrator.client.records import Run
from orchestrator.messages import NodeJoined, QueueChanged, RunSubmitted, StartGang
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.standing import QueueStanding, Standing, standing
from orchestrator.types import Card, Node, NodeId, QueueRule, RunId, RunState
from tests.strategies import make_spec

NAMES = ("day", "night", "rest")
ASKED = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from((50, 50, 80))), min_size=1, max_size=12
)
WEIGHTS = st.fixed_dictionaries({name: st.sampled_from((0.5, 1.0, 2.0, 3.0)) for name in NAMES})


def node(num: int) -> Node:
    cards = tuple(Card(index=i, name="Card", memory_bytes=8 << 30) for i in range(num))
    return Node(node_id=NodeId("box"), cards=cards, num_cpus=8.0)


def run(number: int, queue: str, priority: int) -> Run:
    return Run(
        id=f"run-{number:02}",
        project="p",
        state=RunState.PENDING,
        attempts=0,
        epoch=0,
        epochs=3,
        queue=queue,
        priority=priority,
        order=number,
    )


@settings(deadline=None)
@given(ASKED, WEIGHTS)
def test_the_order_that_is_told_is_the_one_in_which_runs_start(
    asked: list[tuple[str, int]], weights: dict[str, float]
) -> None:
    scheduler = Scheduler()
    for name, weight in weights.items():
        scheduler.handle(QueueChanged(at=0.0, rule=QueueRule(name=name, weight=weight)))
    runs = [run(number, *one) for number, one in enumerate(asked)]
    for each in runs:
        spec = make_spec(each.id, priority=each.priority, queue=each.queue)
        scheduler.handle(RunSubmitted(at=0.0, spec=spec))
    told = in_turn(sorted(runs, key=place), standing(scheduler, 0.0))
    actions = scheduler.handle(NodeJoined(at=0.0, node=node(len(asked))))
    started = [action.attempt.run_id for action in actions if isinstance(action, StartGang)]
    assert [each.id for each in told] == started


def test_what_a_queue_has_had_counts_and_its_weight_divides_it() -> None:
    queues = (
        QueueStanding(name="day", rank=1e6),
        QueueStanding(name="night", weight=2.0, rank=0.0),
    )
    runs = [run(0, "day", 50), run(1, "night", 50), run(2, "day", 50), run(3, "night", 50)]
    told = in_turn(sorted(runs, key=place), Standing(queues=queues))
    assert [each.id for each in told] == ["run-01", "run-03", "run-00", "run-02"]


def test_who_is_beyond_his_queues_quota_goes_last() -> None:
    queues = (QueueStanding(name="day", max_gpus=2.0, num_gpus=1.0), QueueStanding(name="night"))
    runs = [run(number, "day", 50) for number in range(3)] + [run(3, "night", 50)]
    told = in_turn(sorted(runs, key=place), Standing(queues=queues))
    assert [each.id for each in told] == ["run-00", "run-03", "run-01", "run-02"]


@given(ASKED, st.sets(st.integers(0, 11)))
def test_nobody_is_lost_and_who_holds_cards_comes_first(
    asked: list[tuple[str, int]], holding: set[int]
) -> None:
    runs = [run(number, *one) for number, one in enumerate(asked)]
    runs = [replace(r, state=RunState.RUNNING) if i in holding else r for i, r in enumerate(runs)]
    told = in_turn(sorted(runs, key=place), Standing())
    assert Counter(each.id for each in told) == Counter(each.id for each in runs)
    states = [state for state, _ in itertools.groupby(each.state for each in told)]
    assert states in ([], ["RUNNING"], ["PENDING"], ["RUNNING", "PENDING"])


@pytest.mark.parametrize("num", [1, 3])
def test_a_place_that_is_put_aside_is_in_the_standing(num: int) -> None:
    scheduler = Scheduler()
    short = replace(node(num), shortage="the disk of /runs is nearly full")
    scheduler.handle(NodeJoined(at=0.0, node=short))
    (aside,) = standing(scheduler, 0.0).aside
    assert (aside.node_id, aside.card, aside.until) == ("box", None, None)
    assert aside.why == short.shortage
    scheduler.handle(RunSubmitted(at=0.0, spec=make_spec("waits")))
    assert scheduler.status(RunId("waits")).reason == "DISK_FULL"
