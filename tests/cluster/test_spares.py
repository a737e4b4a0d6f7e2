"""Processes that are kept for the next run: who gets one, who has to go, and what clean means."""

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster.spares import Spares
from orchestrator.cluster.tidy import noted
from orchestrator.device.fake import FakeDevice
from orchestrator.messages import StartGang
from orchestrator.plan.batch import plan_batch
from orchestrator.types import AttemptId, NodeId, Placement, RunId, Share
from tests.cli.stored import GIB, make_spec


def order(warm: str = "night", card: int = 0, gib: int = 1) -> StartGang:
    spec = replace(make_spec("stub"), warm=warm)
    share = Share(node_id=NodeId("box"), card=card, memory_bytes=gib * GIB)
    return StartGang(
        attempt=AttemptId(run_id=RunId("run"), number=1),
        spec=spec,
        batch=plan_batch(spec),
        placement=Placement((share,)),
    )


@pytest.fixture(autouse=True)
def looked_through_again() -> Iterator[None]:
    """The process of these tests is no worker: nothing of it stays out of collections."""
    yield
    gc.unfreeze()


@pytest.fixture
def ended() -> list[Any]:
    return []


@pytest.fixture
def spares(ended: list[Any]) -> Spares:
    return Spares(end=ended.append)


def test_the_next_run_of_a_sweep_on_the_same_share_gets_the_process(spares: Spares) -> None:
    assert spares.keep(order(), 0.25, "first", now=0.0)
    assert spares.take(order(), 0.25) == "first"
    assert spares.take(order(), 0.25) is None


@pytest.mark.parametrize(
    "other", [order(warm="day"), order(gib=2), order(warm="")], ids=["sweep", "share", "no sweep"]
)
def test_no_other_run_gets_it_and_it_makes_room(
    spares: Spares, ended: list[Any], other: StartGang
) -> None:
    spares.keep(order(), 0.25, "first", now=0.0)
    assert spares.take(other, 0.5, held=0.9) is None
    assert ended == ["first"]


def test_where_there_is_room_it_stays_and_on_another_card_too(
    spares: Spares, ended: list[Any]
) -> None:
    spares.keep(order(), 0.25, "first", now=0.0)
    assert spares.take(order(gib=2), 0.5, held=0.5) is None
    assert spares.take(order(card=1), 0.25, held=1.0) is None
    assert not ended
    assert spares.take(order(), 0.25) == "first"


def test_only_as_many_go_as_are_in_the_way(spares: Spares, ended: list[Any]) -> None:
    for name in ("first", "second"):
        spares.keep(order(), 0.25, name, now=0.0)
    assert spares.take(order(gib=2), 0.5, held=0.75) is None
    assert ended == ["first"]


def test_it_is_not_kept_for_long(spares: Spares, ended: list[Any]) -> None:
    spares.keep(order(), 0.25, "first", now=100.0)
    spares.expire(101.0)
    assert not ended
    spares.expire(109.0)
    assert ended == ["first"]


def test_runs_of_no_sweep_are_not_kept(spares: Spares) -> None:
    assert not spares.keep(order(warm=""), 0.25, "first", now=0.0)


def test_the_environment_and_the_folder_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, folder = noted(), os.getcwd()  # noqa: PTH109 - what is compared with
    monkeypatch.setenv("LEFT_BY_A_LIBRARY", "1")
    os.chdir("/")
    assert before.put_back(FakeDevice(GIB, name="stub")) == ()
    assert "LEFT_BY_A_LIBRARY" not in os.environ
    assert os.getcwd() == folder  # noqa: PTH109


class Linked:
    """Garbage that only a collection finds: it refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_libraries_are_looked_through_for_garbage_once_and_trainings_each_time() -> None:
    assert noted().put_back(FakeDevice(GIB, name="stub")) == ()
    kept = gc.get_freeze_count()
    assert kept > 0
    left = weakref.ref(Linked())
    assert noted().put_back(FakeDevice(GIB, name="stub")) == ()
    assert left() is None
    assert gc.get_freeze_count() <= kept


def test_a_thread_that_goes_on_is_not_clean() -> None:
    before, pause = noted(), threading.Event()
    thread = threading.Thread(target=pause.wait)
    thread.start()
    try:
        assert before.put_back(FakeDevice(GIB, name="stub")) == ("1 threads",)
    finally:
        pause.set()
        thread.join()
    assert before.put_back(FakeDevice(GIB, name="stub")) == ()


def share(card: int = 0) -> Share:
    return Share(node_id=NodeId("box"), card=card, memory_bytes=0)


def test_a_process_that_was_made_ahead_is_for_the_first_run_of_its_trainer_on_its_card(
    spares: Spares,
) -> None:
    variables = {"OMP_NUM_THREADS": "1"}
    trainer = order().spec.trainer
    spares.add_ready(trainer, share(), variables, 0.0001, "ready", now=0.0)
    assert spares.take(order(card=1), 1.0, 1.0, variables) is None  # another card
    assert spares.take(order(gib=2), 0.5, 0.5, variables) == "ready"  # whatever its share
    assert spares.take(order(), 0.25, 0.25, variables) is None


def test_a_process_that_was_made_ahead_serves_a_run_that_no_other_may_follow(
    spares: Spares,
) -> None:
    spares.add_ready(order().spec.trainer, share(), {}, 0.0001, "ready", now=0.0)
    assert spares.take(order(warm=""), 0.25, 0.25, {}) == "ready"


@pytest.mark.parametrize(
    ("trainer", "variables"), [("other", {}), (None, {"OMP_NUM_THREADS": "4"})]
)
def test_a_process_of_another_trainer_or_with_other_variables_makes_room(
    spares: Spares, ended: list[Any], trainer: str | None, variables: dict[str, str]
) -> None:
    spares.add_ready(trainer or order().spec.trainer, share(), variables, 0.0001, "ready", now=0.0)
    assert spares.take(order(), 0.5, 0.5, {}) is None
    assert ended == []  # there is room beside it
    assert spares.take(order(), 1.0, 1.0, {}) is None
    assert ended == ["ready"]


def test_a_process_that_nobody_came_for_is_ended_after_a_minute(
    spares: Spares, ended: list[Any]
) -> None:
    spares.add_ready("yolo", share(), {}, 0.0001, "ready", now=10.0)
    spares.expire(now=69.0)
    assert spares.places() == {"box"}
    assert ended == []
    spares.expire(now=70.0)
    assert ended == ["ready"]
    assert not spares.places()
