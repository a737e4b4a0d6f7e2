"""Runs of one card go where they are worth most; who slows one another down is parted."""

import dataclasses

from hypothesis import settings

from orchestrator.messages import Event, NodeJoined, PreemptGang
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import RunSpec, RunState
from tests.schedule.test_machine import GRACE, HOLD, PROFILE, START_TIMEOUT, Machine
from tests.schedule.test_scheduler import LARGE, SMALL, Desk
from tests.strategies import make_node, make_spec


class PlacedMachine(Machine):
    def scheduler(self) -> Scheduler:
        return Scheduler(
            start_timeout_seconds=START_TIMEOUT,
            yield_grace_seconds=GRACE,
            hold_after_seconds=HOLD,
            places_by_speed=True,
        )

    def tell(self, event: Event) -> None:
        self.is_broken = True
        self.obey(event)  # that the first in line does not wait holds but for parted runs
        self.is_broken = False


TestPlaced = PlacedMachine.TestCase
TestPlaced.settings = settings(PROFILE, max_examples=40)


def placed_desk() -> Desk:
    return Desk(Scheduler(places_by_speed=True))


def of(spec: RunSpec, model: str) -> RunSpec:
    return dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, model=model))


def train(desk: Desk, name: str, seconds: float) -> list[type]:
    """One epoch of 100 pictures that took so long, at the end of which time stands."""
    event = desk.world.progress(desk.attempt(name))
    progress = dataclasses.replace(event.progress, seconds=seconds, num_images=100)
    actions = desk.world.tell(dataclasses.replace(event, progress=progress))
    return [type(action) for action in actions]


def rounds(desk: Desk, seconds: dict[str, float], num: int) -> list[type]:
    """So many epochs of each, side by side."""
    actions: list[type] = []
    for _ in range(num):
        desk.world.now += max(seconds.values())
        for name, took in seconds.items():
            if desk.state(name) is RunState.RUNNING:
                actions += train(desk, name, took)
    return actions


def test_the_faster_card_is_taken_first_where_nothing_is_measured() -> None:
    desk = placed_desk()
    node = make_node("n", SMALL, LARGE)
    slow, fast = node.cards
    fast = dataclasses.replace(fast, worth=4.0)
    desk.world.tell(NodeJoined(at=0.0, node=dataclasses.replace(node, cards=(slow, fast))))
    desk.submit(make_spec("r"))
    assert desk.where("r") == [("n", 1)]


def test_whoever_gains_most_from_the_faster_card_gets_it() -> None:
    desk = placed_desk()
    node = make_node("n", SMALL, LARGE)
    slow, fast = node.cards
    fast = dataclasses.replace(fast, worth=4.0)
    desk.world.tell(NodeJoined(at=0.0, node=dataclasses.replace(node, cards=(slow, fast))))
    kinds = {"steep": (100.0, 20.0), "flat": (100.0, 90.0)}  # seconds on the slow, the fast card
    for model, (on_slow, on_fast) in kinds.items():
        for at, gpu, seconds in ((0, "RTX 2060", on_slow), (1, "RTX 4090", on_fast)):
            name = f"{model}{at}"
            desk.submit(of(make_spec(name, epochs=9, gpu_types=(gpu,)), model))
            desk.up(name)
            rounds(desk, {name: seconds}, 4)
            desk.finish(name)
    desk.submit(make_spec("blocks", num_gpus=2, gpu_types=()))  # so that both wait together
    blocked = desk.running(["blocks"])
    desk.submit(of(make_spec("f"), "flat"), of(make_spec("s"), "steep"))
    if blocked:
        desk.up("blocks")
        desk.finish("blocks")
    assert (desk.where("s"), desk.where("f")) == ([("n", 1)], [("n", 0)])


def test_two_that_lose_more_than_they_gain_are_parted_and_stay_so() -> None:
    desk = placed_desk()
    desk.node("n", LARGE, LARGE)
    a, b = (of(make_spec(name, gib=8, epochs=500), name) for name in "ab")
    desk.submit(a)
    desk.up("a")
    rounds(desk, {"a": 10.0}, 6)  # alone
    desk.submit(b)
    desk.up("b")
    assert desk.where("b") == [("n", 1)]  # a card of its own is worth more
    rounds(desk, {"b": 10.0}, 6)
    desk.submit(of(make_spec("b2", gib=8, epochs=500), "b"))
    desk.up("b2")
    (home,) = desk.where("b2")
    beside = "a" if home == desk.where("a")[0] else "b"
    actions = rounds(desk, {beside: 30.0, "b2": 30.0}, 12)
    assert PreemptGang in actions
    assert desk.state("b2") is RunState.STOPPING
    assert "slower together" in desk.status("b2").detail
    desk.yield_("b2")
    if desk.state("b2").holds_gpus:  # the other company is not known to be bad
        assert desk.where("b2") != [home]


def test_two_that_gain_stay_together() -> None:
    desk = placed_desk()
    desk.node("n", LARGE)
    for name in ("a", "b"):
        desk.submit(of(make_spec(name, gib=8, epochs=500), name))
    desk.up("a", "b")
    actions = rounds(desk, {"a": 12.0, "b": 12.0}, 12)
    assert PreemptGang not in actions
    assert desk.running(["a", "b"]) == ["a", "b"]


def test_an_epoch_in_which_the_company_changed_teaches_nothing() -> None:
    desk = placed_desk()
    desk.node("n", LARGE)
    desk.submit(of(make_spec("a", gib=8, epochs=500), "a"))
    desk.up("a")
    rounds(desk, {"a": 10.0}, 6)
    for turn in range(8):  # somebody comes in the middle of every epoch, and is slow for it
        name = f"b{turn}"
        desk.submit(of(make_spec(name, gib=8, epochs=500), "b"))
        desk.up(name)
        desk.world.now += 5.0
        assert train(desk, "a", 1000.0) == []
        desk.finish(name)
        desk.world.now += 1.0
    assert desk.state("a") is RunState.RUNNING
