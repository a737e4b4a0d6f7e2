"""Queues: fair shares by weight and by what cards are worth, and quotas."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.messages import NodeJoined, QueueChanged
from orchestrator.schedule.fair import HALF_LIFE_SECONDS, FairShare
from orchestrator.types import Explanation, PendingReason, QueueRule, RunId
from tests.schedule.test_scheduler import HUGE, LARGE, Desk
from tests.strategies import make_node, make_spec


def rule(desk: Desk, name: str, *, weight: float = 1.0, gpus: float | None = None) -> None:
    new = QueueRule(name=name, weight=weight, max_gpus=gpus)
    desk.world.tell(QueueChanged(at=desk.world.now, rule=new))


def test_use_is_card_seconds_times_worth_and_halves_with_time() -> None:
    fair = FairShare()
    fair.take("a", 2.0, 1.0, 0.0)
    assert fair.used("a", 100.0) == pytest.approx(200.0, rel=1e-3)
    fair.take("a", -2.0, -1.0, 100.0)
    assert fair.used("a", 100.0 + HALF_LIFE_SECONDS) == pytest.approx(100.0, rel=1e-3)
    assert fair.num_gpus("a") == 0.0


@given(
    steps=st.lists(
        st.tuples(st.floats(0.0, 1e5), st.floats(0.1, 8.0), st.floats(0.1, 8.0)), max_size=20
    )
)
def test_use_does_not_depend_on_when_it_is_looked_at(
    steps: list[tuple[float, float, float]],
) -> None:
    watched, alone, now = FairShare(), FairShare(), 0.0
    for passed, worth, num in steps:
        watched.take("a", 0.0, 0.0, now + passed / 2)
        now += passed
        for fair in (watched, alone):
            fair.take("a", worth, num, now)
    end = now + 1e5
    assert watched.used("a", end) == pytest.approx(alone.used("a", end), rel=1e-6, abs=1e-6)
    assert alone.used("a", end) >= 0.0


def test_equal_queues_of_an_idle_cluster_get_equal_parts_whoever_came_first() -> None:
    desk = Desk()
    desk.submit(*(make_spec(f"a{i}", queue="a") for i in range(6)))
    desk.submit(*(make_spec(f"b{i}", queue="b") for i in range(6)))
    desk.node("n", *[LARGE] * 6)
    assert len(desk.running(f"a{i}" for i in range(6))) == 3
    assert len(desk.running(f"b{i}" for i in range(6))) == 3
    assert desk.running(["a0", "a1", "a2", "b0", "b1", "b2"]) == [
        "a0",
        "a1",
        "a2",
        "b0",
        "b1",
        "b2",
    ]


def test_a_queue_of_twice_the_weight_gets_twice_as_much() -> None:
    desk = Desk()
    rule(desk, "a", weight=2.0)
    desk.submit(*(make_spec(f"a{i}", queue="a") for i in range(6)))
    desk.submit(*(make_spec(f"b{i}", queue="b") for i in range(6)))
    desk.node("n", *[LARGE] * 6)
    assert len(desk.running(f"a{i}" for i in range(6))) == 4


def test_a_dear_card_counts_for_more() -> None:
    desk = Desk()
    cards = make_node("n", HUGE, LARGE, LARGE, LARGE)
    dear = (dataclasses.replace(cards.cards[0], worth=3.0), *cards.cards[1:])
    desk.submit(make_spec("a0", queue="a", gpu_types=("A100",)))
    desk.submit(*(make_spec(f"a{i}", queue="a", gpu_types=("RTX 4090",)) for i in (1, 2)))
    desk.submit(*(make_spec(f"b{i}", queue="b", gpu_types=("RTX 4090",)) for i in range(3)))
    desk.world.tell(NodeJoined(at=0.0, node=dataclasses.replace(cards, cards=dear)))
    assert desk.running(["a0", "a1", "a2", "b0", "b1", "b2"]) == ["a0", "b0", "b1", "b2"]


def test_what_a_queue_has_had_counts_when_another_comes() -> None:
    desk = Desk()
    desk.node("n", LARGE)
    desk.submit(*(make_spec(f"a{i}", queue="a") for i in range(3)))
    desk.up("a0")
    desk.world.now = 7200.0
    desk.submit(make_spec("b0", queue="b"))
    desk.finish("a0")
    assert desk.running(["a1", "b0"]) == ["b0"]


def test_priority_goes_before_fairness() -> None:
    desk = Desk()
    desk.node("n", LARGE)
    desk.submit(make_spec("a0", queue="a"))
    desk.up("a0")
    desk.world.now = 7200.0
    desk.submit(make_spec("b0", queue="b", priority=50), make_spec("a1", queue="a", priority=51))
    desk.finish("a0")
    assert desk.running(["a1", "b0"]) == ["a1"]


def test_a_quota_holds_whatever_is_free_and_is_told_as_the_reason() -> None:
    desk = Desk()
    rule(desk, "a", gpus=2)
    desk.node("n", *[LARGE] * 4)
    desk.submit(*(make_spec(f"a{i}", queue="a") for i in range(3)), make_spec("b", queue="b"))
    assert desk.running(["a0", "a1", "a2", "b"]) == ["a0", "a1", "b"]
    assert desk.status("a2").reason is PendingReason.QUOTA
    desk.up("a0")
    desk.finish("a0")
    assert desk.running(["a1", "a2"]) == ["a1", "a2"]


def test_shares_count_as_parts_of_a_card() -> None:
    desk = Desk()
    rule(desk, "a", gpus=1)
    desk.node("n", LARGE, LARGE)
    desk.submit(*(make_spec(f"a{i}", gib=8, queue="a") for i in range(5)))
    assert desk.running(f"a{i}" for i in range(5)) == ["a0", "a1", "a2"]


def test_a_run_over_quota_asks_nobody_to_leave_and_keeps_no_room() -> None:
    desk = Desk()
    rule(desk, "a", gpus=1)
    desk.node("n", LARGE, LARGE)
    desk.submit(make_spec("a0", queue="a"), make_spec("low", queue="b", priority=10))
    desk.submit(make_spec("a1", queue="a", priority=90))
    desk.up("a0", "low")
    desk.pass_time(3600.0)
    assert desk.running(["a0", "low"]) == ["a0", "low"]
    assert desk.status("a1").reason is PendingReason.QUOTA


def test_a_larger_quota_lets_waiting_runs_start() -> None:
    desk = Desk()
    rule(desk, "a", gpus=1)
    desk.node("n", LARGE, LARGE)
    desk.submit(make_spec("a0", queue="a"), make_spec("a1", queue="a"))
    assert desk.running(["a0", "a1"]) == ["a0"]
    rule(desk, "a", gpus=2)
    assert desk.running(["a0", "a1"]) == ["a0", "a1"]


def told(desk: Desk, name: str) -> Explanation:
    return desk.scheduler.explain(RunId(name), desk.world.now)


def test_a_quota_is_explained_with_numbers_and_a_remedy_that_helps() -> None:
    desk = Desk()
    rule(desk, "a", gpus=2)
    desk.node("n", *[LARGE] * 4)
    desk.submit(*(make_spec(f"a{i}", queue="a") for i in range(3)))
    found = told(desk, "a2")
    assert "its queue holds as many cards as it may" in found.summary
    assert found.available[0] == "queue a: 2 of 2 cards held, 1 asked"
    assert found.remedies[0] == "raise the quota: cluster.queues.a.gpus"
    assert not any("priority" in remedy for remedy in found.remedies)


def test_a_run_wider_than_its_queue_may_ever_be_needs_a_person() -> None:
    desk = Desk()
    rule(desk, "a", gpus=2)
    desk.node("n", *[LARGE] * 4)
    desk.submit(make_spec("wide", num_gpus=4, queue="a"))
    found = told(desk, "wide")
    assert found.reason is PendingReason.MISCONFIGURED
    assert found.reason.needs_person
    assert "waiting cannot help" in found.summary
    assert "or fewer GPUs: resources.gpus=2" in found.remedies
    rule(desk, "a", gpus=4)
    assert desk.running(["wide"]) == ["wide"]


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"weight": -1.0}, {"max_gpus": 0.0}])
def test_a_rule_that_would_stop_everything_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        QueueRule(name="a", **wrong)
