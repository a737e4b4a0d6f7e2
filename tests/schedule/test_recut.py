"""An attempt that cuts its steps otherwise: what the run remembers of it."""

from collections.abc import Sequence

import pytest

from orchestrator.messages import GivenUp, MicroBatchChanged, Recut, StartGang
from orchestrator.types import Cause, RunState
from tests.schedule.test_scheduler import LARGE, Desk
from tests.strategies import make_spec


@pytest.fixture
def desk() -> Desk:
    return Desk()


def recut(desk: Desk, name: str, old: int, new: int, *, in_validation: bool = False) -> None:
    change = Recut(epoch=1, old=old, new=new, why="out of memory", in_validation=in_validation)
    event = MicroBatchChanged(at=desk.world.now, attempt=desk.attempt(name), recut=change)
    desk.world.tell(event)


def micro_batch(desk: Desk, name: str) -> int:
    batch = desk.status(name).batch
    assert batch is not None
    assert batch.effective_batch == 16
    return batch.micro_batch


def running(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", batch=16))
    desk.up("r")


def test_the_next_attempt_starts_with_the_cut_that_was_learnt(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 5)
    assert desk.state("r") is RunState.RUNNING
    assert micro_batch(desk, "r") == 5
    assert desk.status("r").detail == "micro-batch 16 -> 5 in epoch 1"
    actions = desk.fail("r", Cause.DRIVER_LOST)
    started = [action for action in actions if isinstance(action, StartGang)]
    assert [action.batch.micro_batch for action in started] == [5]


def test_running_out_for_good_cuts_what_was_learnt_not_what_was_planned(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 3)
    desk.fail("r", Cause.OUT_OF_MEMORY)
    assert micro_batch(desk, "r") == 2


def test_a_cut_that_grew_again_is_remembered_and_one_of_validation_is_not(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 8)
    recut(desk, "r", 8, 9)
    recut(desk, "r", 32, 16, in_validation=True)
    assert micro_batch(desk, "r") == 9


def test_a_late_word_of_an_older_attempt_changes_nothing(desk: Desk) -> None:
    running(desk)
    late = desk.attempt("r")
    desk.fail("r", Cause.DRIVER_LOST)
    desk.up("r")
    change = Recut(epoch=1, old=16, new=1, why="out of memory")
    desk.world.tell(MicroBatchChanged(at=desk.world.now, attempt=late, recut=change))
    assert micro_batch(desk, "r") == 16


def give_up(desk: Desk, name: str, rung: str, setting: str, *, is_live: bool = True) -> None:
    given = GivenUp(rung=rung, setting=setting, is_live=is_live)
    change = Recut(epoch=1, old=1, new=1, why="out of memory", given_up=given)
    event = MicroBatchChanged(at=desk.world.now, attempt=desk.attempt(name), recut=change)
    desk.world.tell(event)


def orders(actions: Sequence[object]) -> list[StartGang]:
    return [action for action in actions if isinstance(action, StartGang)]


def test_the_next_attempt_starts_with_what_was_given_up(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 1)
    give_up(desk, "r", "checkpointing", "on")
    give_up(desk, "r", "optimizer_host", "host")
    assert desk.state("r") is RunState.RUNNING
    assert "optimizer_host (host) in epoch 1" in desk.status("r").detail
    (order,) = orders(desk.fail("r", Cause.DRIVER_LOST))
    assert order.spec.settings.options["grad_checkpointing"] is True
    assert order.spec.settings.options["optimizer_state"] == "host"
    assert order.spec.given_up == ("checkpointing=on", "optimizer_host=host")
    assert order.batch.micro_batch == 1
    assert order.batch.effective_batch == 16


def test_a_rung_that_needs_another_attempt_goes_before_a_larger_card(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 1)
    give_up(desk, "r", "amp", "fp16", is_live=False)
    (order,) = orders(desk.fail("r", Cause.OUT_OF_MEMORY))
    assert order.spec.settings.amp == "fp16"
    assert order.placement.shares[0].node_id == "a"
    desk.up("r")
    give_up(desk, "r", "imgsz", "288", is_live=False)
    (order,) = orders(desk.fail("r", Cause.OUT_OF_MEMORY))
    assert (order.spec.settings.imgsz, order.spec.settings.amp) == (288, "fp16")
    desk.up("r")
    give_up(desk, "r", "imgsz", "256", is_live=False)
    (order,) = orders(desk.fail("r", Cause.OUT_OF_MEMORY))
    assert (order.spec.settings.imgsz, order.spec.given_up) == (256, ("amp=fp16", "imgsz=256"))
    desk.up("r")
    assert not orders(desk.fail("r", Cause.OUT_OF_MEMORY))  # no rung, and no larger card
    assert desk.state("r") is RunState.FAILED
    assert "no card of the cluster has more memory" in desk.status("r").detail


def test_a_rung_that_was_taken_alive_does_not_stand_for_a_larger_card(desk: Desk) -> None:
    running(desk)
    recut(desk, "r", 16, 1)
    give_up(desk, "r", "checkpointing", "on")
    assert not orders(desk.fail("r", Cause.OUT_OF_MEMORY))
    assert desk.state("r") is RunState.FAILED
