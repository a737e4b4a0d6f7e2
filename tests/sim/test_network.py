"""The network between driver and simulated cluster loses, delays and repeats as it says."""

from collections.abc import Sequence

import pytest

from orchestrator.cluster.script import Faults
from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_network import DATE, Partition, SimNetwork
from orchestrator.messages import (
    Event,
    GangFailed,
    GangFinished,
    KillGang,
    NodeJoined,
    StartGang,
)
from orchestrator.types import AttemptId, BatchPlan, Cause, NodeId, Placement, Share
from tests.strategies import GIB, make_node, make_spec

NODES = tuple(make_node(name, ("A100", 40 * GIB)) for name in ("a", "b"))


def start(*places: str, epochs: int = 3) -> StartGang:
    spec = make_spec("r", num_gpus=len(places), epochs=epochs, options={"epoch_seconds": 100.0})
    shares = [Share(node_id=NodeId(name), card=0, memory_bytes=GIB) for name in places]
    return StartGang(
        attempt=AttemptId(run_id=spec.run_id, number=1),
        spec=spec,
        batch=BatchPlan(effective_batch=8 * len(places), world_size=len(places), micro_batch=8),
        placement=Placement(tuple(shares)),
    )


def network(faults: Faults | None = None, **how: object) -> SimNetwork:
    world = SimCluster([NodeJoined(at=0.0, node=node) for node in NODES], faults=faults)
    made = SimNetwork(world, **how)  # type: ignore[arg-type]
    for _ in NODES:
        made.wait(None)
    return made


def until(made: SimNetwork, seconds: float) -> list[Event]:
    seen: list[Event] = []
    while made.now() < DATE + seconds:
        seen += made.wait(DATE + seconds)
    return seen


def told(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_node_in_a_partition_is_told_as_lost_and_what_it_said_comes_at_once_later() -> None:
    made = network(partitions=[Partition(node_id=NodeId("a"), at=150.0, seconds=400.0)])
    made.apply(start("a"))
    assert told(until(made, 149.0)) == ["GangStarted", "ProgressReported"]
    assert told(until(made, 549.0)) == ["NodeLost"]
    burst = until(made, 551.0)
    assert sorted(told(burst)) == ["GangFinished", "NodeJoined", *["ProgressReported"] * 2]
    assert {event.at for event in burst} == {DATE + 550.0}


def test_nothing_gets_to_a_node_in_a_partition_and_its_gangs_end_with_it() -> None:
    made = network(partitions=[Partition(node_id=NodeId("a"), at=50.0, seconds=100.0)])
    made.apply(start("a"))
    until(made, 60.0)
    made.apply(KillGang(attempt=start("a").attempt))
    seen = until(made, 1000.0)
    assert not [event for event in seen if isinstance(event, GangFailed | GangFinished)]


def test_a_gang_that_reaches_beyond_a_partition_is_told_as_lost() -> None:
    made = network(partitions=[Partition(node_id=NodeId("b"), at=50.0, seconds=500.0)])
    made.apply(start("a", "b"))
    failed = [event for event in until(made, 100.0) if isinstance(event, GangFailed)]
    assert [event.cause for event in failed] == [Cause.NODE_LOST]


def test_a_gang_that_cannot_be_started_on_all_of_its_nodes_fails_to_start() -> None:
    made = network(partitions=[Partition(node_id=NodeId("b"), at=5.0, seconds=500.0)])
    until(made, 6.0)
    made.apply(start("a", "b"))
    failed = [event for event in until(made, 100.0) if isinstance(event, GangFailed)]
    assert [event.cause for event in failed] == [Cause.START_FAILED]


def test_every_message_of_an_attempt_may_come_twice_and_no_other() -> None:
    made = network(duplicate=1.0)
    made.apply(start("a"))
    seen = told(until(made, 2000.0))
    nums = {"GangStarted": 2, "ProgressReported": 6, "GangFinished": 2}
    assert {name: seen.count(name) for name in seen} == nums


@pytest.mark.parametrize("offset", [86_400.0, -86_400.0])
def test_a_new_driver_may_read_another_date_and_waits_as_long_as_before(offset: float) -> None:
    made = network()
    made.restart(offset)
    assert made.now() == pytest.approx(DATE + offset)
    again = made.wait(made.now())
    assert [round(event.at - DATE - offset, 6) for event in again] == [0.0]
    made.wait(made.now())
    made.apply(start("a"))
    seen = made.wait(None)
    assert 5.0 <= seen[0].at - DATE - offset <= 20.0


def test_a_gang_that_hangs_neither_reports_nor_listens_until_it_is_found() -> None:
    made = network(Faults(hang=1.0))
    made.apply(start("a", epochs=2))
    seen = until(made, 2000.0)
    assert isinstance(seen[-1], GangFailed)
    assert seen[-1].cause is Cause.HANG
    assert seen[-1].at - seen[-2].at >= 600.0 - 100.0


def test_on_a_bad_card_no_step_ever_succeeds() -> None:
    made = network(Faults(bad_card=1.0))
    made.apply(start("a"))
    seen = until(made, 2000.0)
    assert [event.cause for event in seen if isinstance(event, GangFailed)] == [Cause.DEVICE_FAULT]
    assert "ProgressReported" not in told(seen)
