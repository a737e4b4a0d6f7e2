"""Whether anything was committed to a store can be asked often."""

from pathlib import Path

import pytest

from orchestrator.messages import PriorityChanged
from orchestrator.store.sql import SqlStore
from orchestrator.store.watch import Watch
from orchestrator.types import RunId


def wish() -> PriorityChanged:
    return PriorityChanged(at=1.0, run_id=RunId("run-1"), priority=2)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


def test_a_store_has_changed_at_first_and_then_once_a_commit(path: str) -> None:
    with SqlStore(path) as store, SqlStore(path) as other:
        watch = store.watch()
        assert not watch.is_blind
        assert watch.has_changed()
        assert not watch.has_changed()
        other.ask(wish())
        assert watch.has_changed()
        assert not watch.has_changed()


def test_what_the_same_process_commits_is_a_change_too(path: str) -> None:
    with SqlStore(path) as store:
        watch = store.watch()
        watch.has_changed()
        store.ask(wish())
        assert watch.has_changed()


def test_each_watch_tells_a_change_to_who_asks_it(path: str) -> None:
    with SqlStore(path) as store:
        first, second = store.watch(), store.watch()
        assert first.has_changed()
        assert second.has_changed()


def test_a_driver_receives_what_is_asked_between_two_empty_looks(path: str) -> None:
    with SqlStore(path) as store, SqlStore(path) as asker, store.drive("test"):
        assert store.receive(2.0) == ()
        assert store.receive(3.0) == ()
        asker.ask(wish())
        assert [event.at for event in store.receive(4.0)] == [4.0]
        assert store.receive(5.0) == ()


def test_a_driver_that_takes_fifty_at_a_time_takes_the_rest_at_the_next_looks(path: str) -> None:
    with SqlStore(path) as store, SqlStore(path) as asker, store.drive("test"):
        for _ in range(120):
            asker.ask(wish())
        counts = [len(store.receive(2.0)) for _ in range(4)]
    assert counts == [50, 50, 20, 0]


def test_what_was_asked_before_a_driver_came_is_received_by_it(path: str) -> None:
    with SqlStore(path) as asker:
        asker.ask(wish())
    with SqlStore(path) as store, store.drive("test"):
        assert len(store.receive(2.0)) == 1


def test_where_nobody_can_tell_everything_may_have_changed() -> None:
    watch = Watch(None, 1.0)
    assert watch.is_blind
    assert watch.has_changed()
    assert watch.has_changed()
    watch.close()


def test_a_store_that_is_closed_ends_its_watches(path: str) -> None:
    with SqlStore(path) as store:
        watch = store.watch()
        assert not watch.is_blind
    assert watch.is_blind
