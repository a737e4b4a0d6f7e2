"""What lists read: the last and the best epoch of a run, nodes, askings; kept as events come."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.messages import (
    DrainRequested,
    Event,
    GangStarted,
    NodeChanged,
    NodeJoined,
    NodeLost,
    ProgressReported,
    RunMoved,
    RunSubmitted,
)
from orchestrator.store.schema import HEAD
from orchestrator.store.sql import SqlStore
from orchestrator.types import Card, CheckpointRef, Node, NodeId, RunState
from tests.contracts.store import OTHER, RUN, attempt, epoch, spec, status
from tests.store.revisions import make_store_of

CARD = Card(index=0, name="RTX 2060", memory_bytes=6 << 30)
NODE = Node(node_id=NodeId("box"), cards=(CARD,), num_cpus=2.0)


def reported(number: int, of: int, *, is_best: bool, loss: float) -> ProgressReported:
    event = epoch(number, attempt(of), loss=loss)
    ref = CheckpointRef(
        attempt=attempt(of), epoch=number, path="/x", sha256="", num_bytes=1, is_best=is_best
    )
    return replace(event, checkpoint=ref)


def running(store: SqlStore, number: int = 1) -> None:
    store.publish([status(attempt=number, state=RunState.RUNNING)])


def by_hand(store: SqlStore) -> tuple[int, int | None, float | None, float | None]:
    """Last epoch, best epoch, its loss and the last loss, from all epochs and checkpoints."""
    rows = {row.epoch: row.metrics["loss"] for row in store.progress(RUN)}
    best = max((ref.epoch for ref in store.checkpoints(RUN) if ref.is_best), default=None)
    last = rows[max(rows)] if rows else None
    return max(rows, default=0), best, None if best is None else rows[best], last


def listed(store: SqlStore) -> tuple[int, int | None, float | None, float | None]:
    found = store.listed(RUN)
    assert found is not None
    return found.epoch, found.best_epoch, found.best.get("loss"), found.metrics.get("loss")


@settings(max_examples=40, deadline=None)
@given(
    epochs=st.lists(
        st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=10
    )
)
def test_the_short_row_of_a_run_says_what_all_its_epochs_say(
    epochs: list[tuple[int, bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "orchestrator.db"
    with SqlStore(str(path)) as store, store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        number = 1
        running(store)
        for at, (epoch_number, is_best, is_again) in enumerate(epochs):
            if is_again:  # a newer attempt goes on from an earlier checkpoint
                number += 1
                running(store, number)
            store.append(reported(epoch_number, number, is_best=is_best, loss=1.0 / (at + 1)))
            assert listed(store) == by_hand(store)


def test_a_number_that_json_cannot_say_is_kept(tmp_path: Path) -> None:
    with SqlStore(str(tmp_path / "o.db")) as store, store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        running(store)
        store.append(reported(1, 1, is_best=False, loss=float("nan")))
        found = store.listed(RUN)
        assert found is not None
        assert found.metrics["loss"] == {"$float": "nan"}


def test_lists_hold_what_was_taken_and_what_was_asked(tmp_path: Path) -> None:
    with SqlStore(str(tmp_path / "o.db")) as store, store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        running(store)
        store.ask(RunSubmitted(at=2.0, spec=replace(spec(OTHER), project="others")))
        known, asked = store.listing()
        assert [row.status["run_id"] for row in known] == [RUN]
        assert [plain["run_id"] for plain in asked] == [OTHER]
        assert store.listing(project="others")[0] == []
        assert store.listing(limit=1)[0] == [], "the newest is the one that was asked"
        assert store.projects() == {RUN: "cells", OTHER: "others"}
        assert store.num_unfinished([RUN, OTHER]) == 2
        store.publish([status(attempt=1, state=RunState.SUCCEEDED)])
        assert store.num_unfinished([RUN, OTHER]) == 1
        assert store.listing(is_unfinished=True)[0] == []


def test_nodes_are_those_that_joined_and_were_not_lost(tmp_path: Path) -> None:
    other = replace(NODE, node_id=NodeId("other"))
    fuller = replace(NODE, cards=(replace(CARD, foreign_bytes=5),))
    with SqlStore(str(tmp_path / "o.db")) as store:
        with store.drive():
            events: list[Event] = [
                NodeJoined(at=1.0, node=NODE),
                NodeJoined(at=1.0, node=other),
                NodeChanged(at=2.0, node=fuller),
                NodeLost(at=3.0, node_id=other.node_id),
                NodeChanged(at=4.0, node=other),
            ]
            for event in events:
                store.append(event)
            assert store.nodes() == (fuller,)
        assert store.nodes() == (fuller,), "those of the last driver"
        with store.drive():
            assert store.nodes() == (), "the next one has to announce its own"


def test_a_request_to_leave_is_for_the_driver_that_runs_and_no_later_one(tmp_path: Path) -> None:
    with SqlStore(str(tmp_path / "o.db")) as store:
        with store.drive():
            store.ask(DrainRequested(at=1.0))
            assert store.receive(2.0) == (DrainRequested(at=2.0),)
        store.ask(DrainRequested(at=3.0))  # it has just left
        store.ask(RunMoved(at=3.0, run_id=RUN))
        with store.drive():
            assert store.receive(4.0) == (RunMoved(at=4.0, run_id=RUN),)


def test_a_store_of_the_version_before_gets_its_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with SqlStore(str(path)) as store, store.drive():
        store.append(NodeJoined(at=1.0, node=NODE))
        store.ask(RunSubmitted(at=1.0, spec=spec()))
        store.receive(1.0)
        running(store)
        store.append(GangStarted(at=2.0, attempt=attempt(1)))
        store.append(reported(1, 1, is_best=True, loss=0.5))
        store.append(reported(2, 1, is_best=False, loss=0.7))
        wanted, nodes = listed(store), store.nodes()
    _go_back(path, "0003")
    with SqlStore(str(path)) as store:
        assert listed(store) == wanted == (2, 1, 0.5, 0.7)
        assert store.nodes() == nodes == (NODE,)
        (asking,) = store.askings("whatever")  # its fingerprint was not kept then
        assert asking.spec == spec()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT version_num FROM meta").fetchone() == (HEAD,)


def _go_back(path: Path, version: str) -> None:
    """Make a store one of an earlier version, with the rows that it had then."""
    with closing(sqlite3.connect(path)) as raw, raw:
        tables = ("journal", "runs", "progress", "checkpoints", "inbox")
        kept = {name: raw.execute(f"SELECT * FROM {name}").fetchall() for name in tables}  # noqa: S608 - our own names
        columns = {name: _columns(raw, name) for name in tables}
    path.unlink()
    make_store_of(version, path)
    with closing(sqlite3.connect(path)) as raw, raw:
        for name in tables:
            known = _columns(raw, name)
            for row in kept[name]:
                values = dict(zip(columns[name], row, strict=True))
                marks = ", ".join("?" for _ in known)
                raw.execute(
                    f"INSERT INTO {name} ({', '.join(known)}) VALUES ({marks})",  # noqa: S608 - as above
                    [values[column] for column in known],
                )


def _columns(raw: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in raw.execute(f"PRAGMA table_info({table})")]


def test_a_driver_on_another_host_is_dead_when_it_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with SqlStore(str(path)) as store:
        for silent, is_alive in ((5.0, True), (3600.0, False)):
            with closing(sqlite3.connect(path)) as raw, raw:
                raw.execute(
                    "UPDATE lease SET owner = 'orc serve', host = 'elsewhere', pid = 1,"
                    " since = 1.0, beat = unixepoch('now') - ?",
                    [silent],
                )
            driver = store.driver()
            assert (driver is not None) == is_alive
            if driver is not None:
                assert driver.silent_seconds is not None
                assert driver.silent_seconds >= 4.0


def test_a_driver_gives_signs_of_life_while_it_receives(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with SqlStore(str(path)) as store, store.drive():
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE lease SET beat = 1.0")
        store.receive(1.0)
        driver = store.driver()
        assert driver is not None
        assert driver.silent_seconds is not None
        assert driver.silent_seconds < 60.0


def test_the_plain_spec_of_an_asking_is_that_of_its_record(tmp_path: Path) -> None:
    with SqlStore(str(tmp_path / "o.db")) as store:
        store.ask(RunSubmitted(at=1.0, spec=spec()))
        (plain,) = store.listing()[1]
        assert json.loads(json.dumps(plain)) == plain
        assert plain["settings"] == {**plain["settings"], "epochs": spec().settings.epochs}  # type: ignore[dict-item] # it is a block
