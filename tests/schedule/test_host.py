"""CPUs and RAM of nodes: counted beside the cards, given once, and made room for."""

import pytest

from orchestrator.messages import NodeChanged, NodeJoined, PreemptGang, RunSubmitted
from orchestrator.schedule.asks import Ask, within_host
from orchestrator.types import DeviceKind, PendingReason
from tests.schedule.test_scheduler import HUGE, LARGE, Desk
from tests.strategies import GIB, make_node, make_spec


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("cpus", "ram", "fitting"), [(8, 40, 3), (8, 9.9, 2), (1, 40, 1), (8, -1, 0), (-1, 40, 0)]
)
def test_workers_that_a_host_allows(cpus: float, ram: float, fitting: int) -> None:
    ask = Ask.of(make_spec(num_cpus=1, ram_gib=4))
    assert within_host(ask, 3, cpus, int(ram * GIB)) == fitting


def test_a_share_of_a_card_needs_its_ram_too(desk: Desk) -> None:
    desk.node("a", LARGE, ram=8)
    desk.submit(*(make_spec(name, gib=2, ram_gib=3) for name in "rst"), make_spec("u", gib=2))
    assert desk.running("rstu") == ["r", "s", "u"]
    assert desk.status("t").reason is PendingReason.WAITING_FOR_CPU_OR_RAM
    desk.up("r")
    desk.finish("r")
    assert desk.running("rstu") == ["s", "t", "u"]


def test_the_card_of_a_node_with_ram_before_the_tighter_one(desk: Desk) -> None:
    desk.node("tight", LARGE, ram=4)
    desk.node("roomy", LARGE, ram=64)
    desk.submit(make_spec("before", gib=10, ram_gib=1), make_spec("r", gib=10, ram_gib=5))
    assert desk.where("before") == [("tight", 0)]
    assert desk.where("r") == [("roomy", 0)]


def test_a_gang_goes_to_a_node_that_has_ram_for_all_of_it(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE, ram=12)
    desk.node("b", LARGE, LARGE, LARGE, ram=16)
    desk.submit(make_spec("gang", num_gpus=2, gib=5, ram_gib=8))
    assert desk.where("gang") == [("b", 0), ("b", 1)]


def test_a_gang_is_spread_where_the_ram_is_and_not_where_the_cards_are(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE, LARGE, ram=8)
    desk.node("b", LARGE, LARGE, ram=16)
    desk.submit(make_spec("gang", num_gpus=3, gib=5, ram_gib=8))
    assert sorted(desk.where("gang")) == [("a", 0), ("b", 0), ("b", 1)]
    desk.submit(make_spec("more", num_gpus=4, gib=5, ram_gib=8))
    assert desk.status("more").reason is PendingReason.EXCEEDS_CLUSTER


def test_a_run_on_the_cpu_goes_where_ram_is(desk: Desk) -> None:
    desk.node("a", cpus=4, ram=4)
    desk.node("b", cpus=16, ram=16)
    spec = make_spec("r", device=DeviceKind.CPU, num_cpus=2, ram_gib=10)
    desk.submit(spec, make_spec("s", device=DeviceKind.CPU, num_cpus=2, ram_gib=10))
    assert desk.where("r") == [("b", None)]
    assert desk.status("s").reason is PendingReason.WAITING_FOR_CPU_OR_RAM


def test_only_who_holds_the_ram_is_asked_to_leave_for_it(desk: Desk) -> None:
    desk.node("a", HUGE, ram=32)
    desk.submit(
        make_spec("light", gib=4, ram_gib=2, priority=10),
        make_spec("heavy", gib=4, ram_gib=24, priority=20),
    )
    desk.up("light", "heavy")
    urgent = RunSubmitted(at=0.0, spec=make_spec("urgent", gib=4, ram_gib=16, priority=90))
    actions = desk.world.tell(urgent)
    asked = [action.attempt.run_id for action in actions if isinstance(action, PreemptGang)]
    assert asked == ["heavy"]
    assert desk.status("urgent").reason is PendingReason.WAITING_FOR_PREEMPTED
    desk.yield_("heavy")
    assert desk.running(["light", "heavy", "urgent"]) == ["light", "urgent"]


def test_a_spread_gang_gets_its_ram_from_lower_priorities(desk: Desk) -> None:
    for name in "ab":
        desk.node(name, LARGE, ram=16)
    desk.submit(*(make_spec(n, gib=2, ram_gib=12, priority=10) for n in ("low-a", "low-b")))
    desk.up("low-a", "low-b")
    desk.submit(make_spec("gang", num_gpus=2, gib=2, ram_gib=10, priority=90))
    desk.yield_("low-a")
    desk.yield_("low-b")
    assert desk.running(["gang", "low-a", "low-b"]) == ["gang"]


def test_ram_that_a_node_tells_later_counts_what_is_taken_already(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", gib=2, ram_gib=6))
    desk.world.tell(NodeChanged(at=0.0, node=make_node("a", LARGE, ram_gib=10)))
    desk.submit(make_spec("s", gib=2, ram_gib=6), make_spec("t", gib=2, ram_gib=4))
    assert desk.running("rst") == ["r", "t"]
    desk.world.tell(NodeJoined(at=0.0, node=make_node("b", LARGE, ram_gib=6)))
    assert desk.where("s") == [("b", 0)]
