"""Why a run waits, in numbers, with who has the cards and what would help."""

from dataclasses import replace

import pytest

from orchestrator.messages import NodeJoined
from orchestrator.types import Cause, DeviceKind, Explanation, PendingReason, RunId
from tests.schedule.test_scheduler import HUGE, LARGE, SMALL, Desk
from tests.strategies import GIB, make_node, make_spec


@pytest.fixture
def desk() -> Desk:
    return Desk()


def explained(desk: Desk, name: str) -> Explanation:
    return desk.scheduler.explain(RunId(name), desk.world.now)


def test_who_holds_the_cards_and_for_how_long(desk: Desk) -> None:
    desk.node("gpu-01", HUGE, HUGE)
    desk.node("gpu-02", SMALL)
    desk.submit(make_spec("red-fox", num_gpus=2, priority=80, epochs=100))
    desk.up("red-fox")
    desk.epoch("red-fox")
    desk.submit(make_spec("otter", gib=20, gpu_types=("A100",)))
    desk.world.now += 840.0
    told = explained(desk, "otter")
    assert told.reason is PendingReason.WAITING_FOR_GPU
    assert "PENDING for 14 min" in told.summary
    assert told.asks == "1 x GPU (A100), 20.0 GiB each"
    assert told.available == (
        "RTX 2060 6.0 GiB: 1 total (excluded by gpu_type)",
        "A100 80.0 GiB: 2 total, 0 with room for it",
    )
    assert told.blockers == (
        "gpu-01:0,1 red-fox (priority 80 > 50, epoch 1/100, ends in about 2 min)",
    )
    assert any("priority=" in remedy for remedy in told.remedies)


def test_a_card_that_does_not_exist_and_the_one_that_would_do(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", gib=10, gpu_types=("H100",)))
    told = explained(desk, "r")
    assert told.reason is PendingReason.NO_MATCHING_GPU
    assert told.reason.needs_person
    assert any("RTX 4090" in remedy for remedy in told.remedies)


def test_more_memory_than_any_card_has(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", gib=30))
    told = explained(desk, "r")
    assert told.available == ("RTX 4090 24.0 GiB: 1 total (too small)",)
    assert "30.0 GiB" in told.remedies[0]
    assert "24.0 GiB" in told.remedies[0]


def test_a_gang_that_shall_be_on_one_node_is_never_spread(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    desk.submit(replace(make_spec("whole", num_gpus=2), is_on_one_node=True))
    told = explained(desk, "whole")
    assert told.reason is PendingReason.EXCEEDS_CLUSTER
    assert told.asks.endswith(", on one node")
    assert any("resources.nodes" in remedy for remedy in told.remedies)
    desk.submit(make_spec("spread", num_gpus=2))
    assert explained(desk, "spread").reason is None
    desk.node("c", LARGE, LARGE)
    assert explained(desk, "whole").reason is None


def test_more_cards_than_there_are(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE)
    desk.submit(make_spec("r", num_gpus=4))
    told = explained(desk, "r")
    assert told.reason is PendingReason.EXCEEDS_CLUSTER
    assert any("resources.gpus=2" in remedy for remedy in told.remedies)


def test_processes_outside_are_named_with_their_bytes(desk: Desk) -> None:
    desk.node("a", LARGE, foreign=20 * GIB)
    desk.submit(make_spec("r", gib=10))
    told = explained(desk, "r")
    assert told.reason is PendingReason.EXTERNAL_PROCESS
    assert told.blockers == ("a:0 processes outside the orchestrator hold 20.0 GiB",)


def test_a_backoff_says_when_and_why(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.fail("r", Cause.WORKER_LOST, "rank 0 vanished")
    told = explained(desk, "r")
    assert told.reason is PendingReason.BACKOFF
    assert "rank 0 vanished" in told.summary
    assert "attempt 2 in 2 s" in told.summary


def test_cpus_that_are_missing(desk: Desk) -> None:
    desk.node("a", cpus=4.0)
    desk.submit(make_spec("r", device=DeviceKind.CPU, num_cpus=9.0))
    told = explained(desk, "r")
    assert told.reason is PendingReason.EXCEEDS_CLUSTER
    assert told.asks == "9 CPUs of one node"
    assert told.available == ("CPUs of one node: 4 at most, 4 free at most",)


def test_ram_that_is_missing_for_now(desk: Desk) -> None:
    desk.node("a", LARGE, ram=32)
    desk.submit(make_spec("r", gib=2, ram_gib=20), make_spec("s", gib=2, num_cpus=1, ram_gib=16))
    told = explained(desk, "s")
    assert told.reason is PendingReason.WAITING_FOR_CPU_OR_RAM
    assert "too little RAM" in told.summary
    assert told.asks == "1 x GPU, 2.0 GiB each, 1 CPUs, 16.0 GiB of RAM each"
    assert told.available == (
        "CPUs of one node: 8 at most, 8 free at most",
        "RAM of one node: 32.0 GiB at most, 12.0 GiB free at most",
        "RTX 4090 24.0 GiB: 1 total, 1 with room for it",
    )
    assert any("fewer workers" in r and "cache=false" in r for r in told.remedies)
    assert any("resources.ram" in remedy for remedy in told.remedies)


def test_ram_that_no_node_has(desk: Desk) -> None:
    desk.node("a", LARGE, ram=32)
    desk.submit(
        make_spec("r", gib=2, ram_gib=33),
        make_spec("c", device=DeviceKind.CPU, num_cpus=1, ram_gib=33),
        make_spec("gang", num_gpus=2, gib=2, ram_gib=1),
    )
    told = explained(desk, "r")
    assert told.reason is PendingReason.EXCEEDS_CLUSTER
    assert any("a node has 32.0 GiB at most" in remedy for remedy in told.remedies)
    told = explained(desk, "c")
    assert told.reason is PendingReason.EXCEEDS_CLUSTER
    assert told.asks == "1 CPUs, 33.0 GiB of RAM of one node"
    assert any("resources.ram" in remedy for remedy in told.remedies)
    assert not any("resources.ram" in remedy for remedy in explained(desk, "gang").remedies)


def test_a_node_that_did_not_tell_its_ram_holds_any(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", ram_gib=500), make_spec("s", ram_gib=500))
    assert desk.where("r") == [("a", 0)]
    lines = explained(desk, "s").available
    assert "RAM of one node: not told by some, and not limited there" in lines


def test_without_a_node_it_says_that_no_gpu_is_known(desk: Desk) -> None:
    desk.submit(make_spec("r"))
    assert explained(desk, "r").available == ("no GPU is known",)


def test_a_run_that_does_not_wait_has_no_reason(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    told = explained(desk, "r")
    assert told.reason is None
    assert told.summary.startswith("r is RUNNING on a:0 RTX 4090, epoch 0/3")


def test_many_holders_are_summed_up(desk: Desk) -> None:
    desk.world.tell(NodeJoined(at=0.0, node=make_node("a", *([LARGE] * 12))))
    desk.submit(*(make_spec(f"r{i}") for i in range(13)))
    told = explained(desk, "r12")
    assert len(told.blockers) == 9
    assert told.blockers[-1] == "and 4 more"
