"""What the SQL store promises beyond the contract: who may write, who may ask, what it refuses."""

import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from structlog.testing import capture_logs

from orchestrator.errors import NotFoundError, StoreError
from orchestrator.messages import CancelRequested, Event, GangStarted, PriorityChanged, RunSubmitted
from orchestrator.store import database, reading
from orchestrator.store.asking import Wish
from orchestrator.store.database import Database
from orchestrator.store.migrations import FOLDER, upgrade
from orchestrator.store.schema import HEAD, VERSION_TABLE, metadata
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunState
from tests.contracts.store import OTHER, RUN, attempt, epoch, spec, status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "orchestrator.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlStore]:
    with SqlStore(str(path)) as store:
        yield store


def refusal(code: str) -> "pytest.RaisesExc[StoreError]":
    return pytest.raises(StoreError, check=lambda error: error.code == code)


def in_another_process(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_store_is_private_and_durable(store: SqlStore, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with store._database.engine.connect() as connection:  # pragmas have no other face
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert found == ["wal", 2, 1, 30_000]


def test_whoever_does_not_drive_may_not_write(store: SqlStore) -> None:
    store.ask(RunSubmitted(at=1.0, spec=spec()))
    for write in (
        lambda: store.append(RunSubmitted(at=1.0, spec=spec())),
        lambda: store.publish([status(attempt=1, state=RunState.RUNNING)]),
        lambda: store.receive(2.0),
    ):
        with refusal("E5008"):
            write()
    assert list(store.replay()) == []
    assert store.statuses() == ()


def test_a_second_driver_is_told_who_drives(store: SqlStore, path: Path) -> None:
    with store.drive("the first"), SqlStore(str(path)) as second:
        with refusal("E5006") as caught, second.drive("the second"):
            pass
        (why,) = caught.value.why
        assert "the first" in why
        assert socket.gethostname() in why
        assert str(os.getpid()) in why
        assert str(os.getpid()) in caught.value.fix[-1]
    with SqlStore(str(path)) as third, third.drive():
        pass


def test_the_driver_is_known_while_it_drives(store: SqlStore, path: Path) -> None:
    assert store.driver() is None
    with SqlStore(str(path)) as other, other.drive("me"):
        driver = store.driver()
        assert driver is not None
        assert (driver.owner, driver.pid) == ("me", os.getpid())
    assert store.driver() is None


def test_a_driver_that_was_killed_leaves_the_store_free(store: SqlStore, path: Path) -> None:
    code = """
import os, signal, sys
from orchestrator.store.sql import SqlStore
with SqlStore(sys.argv[1]).drive("doomed"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode < 0
    assert store.driver() is None
    with store.drive():
        assert store.append(RunSubmitted(at=1.0, spec=spec()))


def test_a_superseded_driver_writes_nothing_more(store: SqlStore, path: Path) -> None:
    with store.drive("old"):
        store.append(RunSubmitted(at=1.0, spec=spec()))
        # Somebody deletes the lock's file; what is left is the epoch in the lease's row.
        path.with_name(path.name + ".lock").unlink()
        with SqlStore(str(path)) as other, other.drive("new"):
            other.publish([status(attempt=1, state=RunState.RUNNING)])
            before = list(other.replay())
            with refusal("E5007"):
                store.append(GangStarted(at=2.0, attempt=attempt(1)))
            with refusal("E5007"):
                store.publish([status(attempt=2, state=RunState.RUNNING)])
            assert list(other.replay()) == before
            assert other.status(RUN).attempt == 1


def test_reading_and_asking_go_on_while_another_process_drives(store: SqlStore, path: Path) -> None:
    code = """
import sys
from orchestrator.messages import CancelRequested
from orchestrator.store.sql import SqlStore
with SqlStore(sys.argv[1]) as store:
    (row,) = store.statuses("cells")
    print(row.state, len(store.progress(row.run_id)), store.driver().owner)
    store.ask(CancelRequested(at=1.0, run_id=row.run_id))
"""
    with store.drive("me"):
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=1, state=RunState.RUNNING)])
        store.append(epoch(1, attempt(1)))
        assert in_another_process(code, str(path)) == "RUNNING 1 me"
        assert [type(event) for event in store.receive(9.0)] == [CancelRequested]


def test_one_key_asked_by_64_threads_is_one_row(store: SqlStore, path: Path) -> None:
    with ThreadPoolExecutor(64) as pool:
        wishes = [
            RunSubmitted(at=float(n), spec=replace(spec(), run_id=RunId(f"run-{n}")))
            for n in range(64)
        ]
        answers = set(pool.map(lambda wish: store.ask(wish, "same"), wishes))
    (waiting,) = store.waiting()
    assert isinstance(waiting, RunSubmitted)
    assert answers == {waiting.spec.run_id}


def test_a_key_stands_for_one_wish_for_ever(store: SqlStore) -> None:
    wish = RunSubmitted(at=1.0, spec=spec())
    assert store.ask(wish, "key") == RUN
    with store.drive():
        store.receive(2.0)
    later = replace(wish, at=9.0, spec=replace(spec(), run_id=OTHER))
    assert store.ask(later, "key") == RUN
    assert store.inbox_is_empty()
    with refusal("E5009"):
        store.ask(replace(wish, spec=replace(spec(), effective_batch=16)), "key")
    with refusal("E5009"):
        store.ask(PriorityChanged(at=1.0, run_id=RUN, priority=1), "key")


def test_a_run_is_submitted_once_with_or_without_a_key(store: SqlStore) -> None:
    wish = RunSubmitted(at=1.0, spec=spec())
    assert store.ask(wish) == store.ask(replace(wish, at=2.0)) == RUN
    with refusal("E5009"):
        store.ask(replace(wish, spec=replace(spec(), effective_batch=16)))
    with refusal("E5009"):
        store.ask(wish, "another key")
    assert len(store.waiting()) == 1


def test_wishes_that_are_asked_together_are_one_by_one_as_if_asked_alone(store: SqlStore) -> None:
    first = RunSubmitted(at=1.0, spec=spec())
    other = replace(first, spec=replace(spec(), run_id=OTHER))
    stop = CancelRequested(at=1.0, run_id=RUN)
    wishes = [Wish(event=first, key="k"), Wish(event=other, key="k"), Wish(event=stop)]
    assert store.ask_all(wishes) == (RUN, RUN, RUN)
    assert [type(event) for event in store.waiting()] == [RunSubmitted, CancelRequested]
    clash = replace(first, spec=replace(spec(), effective_batch=16))
    for wrong in (
        [Wish(event=stop), Wish(event=clash, key="k")],
        [Wish(event=other), Wish(event=other, key="another")],
    ):
        with refusal("E5009"):
            store.ask_all(wrong)
    assert len(store.waiting()) == 2, "all or none"


def test_wishes_are_taken_in_the_order_of_asking_fifty_at_a_time(store: SqlStore) -> None:
    ids = [RunId(f"run-{number:03d}") for number in range(120)]
    store.ask_all(
        [Wish(event=RunSubmitted(at=1.0, spec=replace(spec(), run_id=name))) for name in ids]
    )
    with store.drive():
        waves = [store.receive(float(at)) for at in range(5)]
    assert [len(wave) for wave in waves] == [50, 50, 20, 0, 0]
    taken = [event.spec.run_id for wave in waves for event in wave]  # type: ignore[attr-defined]  # submissions
    assert taken == ids
    assert [event.at for _, event in store.events()] == [0.0] * 50 + [1.0] * 50 + [2.0] * 20


def test_other_wishes_may_be_repeated(store: SqlStore) -> None:
    for _ in range(2):
        assert store.ask(CancelRequested(at=1.0, run_id=RUN)) == RUN
    assert len(store.waiting()) == 2


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "A", "-a", "a..b", "a\x00", "é", "a" * 64]
)
def test_a_name_that_could_leave_its_folder_is_refused(store: SqlStore, name: str) -> None:
    for bad in (replace(spec(), run_id=RunId(name)), replace(spec(), project=name)):
        with refusal("E5011"):
            store.ask(RunSubmitted(at=1.0, spec=bad))
    assert store.inbox_is_empty()


def test_only_people_s_wishes_are_taken_into_the_inbox(store: SqlStore) -> None:
    with refusal("E5009"):
        store.ask(GangStarted(at=1.0, attempt=attempt(1)))


def test_attempts_only_grow(store: SqlStore) -> None:
    with store.drive():
        store.publish([status(attempt=2, state=RunState.RUNNING)])
        with refusal("E5017"):
            store.publish(
                [
                    status(OTHER, attempt=1, state=RunState.RUNNING),
                    status(attempt=1, state=RunState.RUNNING),
                ]
            )
    assert [row.run_id for row in store.statuses()] == [RUN]


def test_a_checkpoint_is_recorded_and_replaced_with_its_epoch(store: SqlStore) -> None:
    with store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=1, state=RunState.RUNNING)])
        for number in (1, 2, 3):
            store.append(epoch(number, attempt(1)))
        assert [ref.epoch for ref in store.checkpoints(RUN)] == [3, 2, 1]
        store.publish([status(attempt=2, state=RunState.RUNNING)])
        store.append(epoch(2, attempt(2)))
        store.append(replace(epoch(3, attempt(2)), checkpoint=None))
        assert not store.append(epoch(2, attempt(1)))
    found = [(ref.attempt.number, ref.epoch) for ref in store.checkpoints(RUN)]
    assert found == [(2, 2), (1, 1)]


def test_events_can_be_read_on_from_the_last_number(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PAGE", 10)
    with store.drive():
        wishes: list[Event] = [
            PriorityChanged(at=float(n), run_id=RUN if n % 2 else OTHER, priority=n)
            for n in range(50)
        ]
        for wish in wishes:
            store.ask(wish)
        store.receive(5.0)
    numbers = [number for number, _ in store.events()]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert [n for n, _ in store.events(since=numbers[30])] == numbers[31:]
    assert sum(1 for _ in store.events(RUN)) == 25


def test_what_is_not_there_is_said(store: SqlStore) -> None:
    with pytest.raises(NotFoundError, match="there is no run"):
        store.status("nothing")
    with pytest.raises(NotFoundError):
        store.spec("nothing")
    store.ask(RunSubmitted(at=1.0, spec=spec()))
    with pytest.raises(NotFoundError, match="no driver has taken it"):
        store.status(RUN)
    assert store.spec(RUN) == spec()
    assert store.progress("nothing") == ()
    assert store.checkpoints("nothing") == ()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("sqlite://", "E5001"),
        ("sqlite:///:memory:", "E5001"),
        ("mysql://host/db", "E5001"),
        ("://", "E5001"),
        ("/proc/orchestrator/x.db", "E5016"),
    ],
)
def test_an_address_that_cannot_hold_a_store_is_explained(url: str, code: str) -> None:
    with refusal(code):
        SqlStore(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my diary, of which I have no copy\n" * 40)
    before = path.read_bytes()
    with refusal("E5001"):
        SqlStore(str(path))
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with refusal("E5001") as caught:
        SqlStore(str(path))
    assert "songs" in caught.value.why[0]


def test_a_store_of_a_newer_version_is_refused_with_both_versions(path: Path) -> None:
    SqlStore(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET version_num = '0999'")
    connection.close()
    with refusal("E5005") as caught:
        SqlStore(str(path))
    assert "0999" in caught.value.why[0]
    assert HEAD in caught.value.why[0]
    assert "upgrade" in caught.value.fix[0]


def test_a_store_that_is_locked_for_long_is_explained(
    store: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    with SqlStore(str(path)) as other:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with refusal("E5002"):
            other.ask(CancelRequested(at=1.0, run_id=RUN))
        holder.close()
        other.ask(CancelRequested(at=1.0, run_id=RUN))


def test_without_a_write_ahead_log_the_store_works_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqlStore(str(path)).close()  # made on a local disk, then moved to one of a machine's host
    kind = database._file_system(path.parent)  # the type of this very disk
    monkeypatch.setattr(database, "SHARED_FILE_SYSTEMS", frozenset({kind}))
    with capture_logs() as logs, SqlStore(str(path)) as store, store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        assert len(list(store.replay())) == 1
        with store._database.engine.connect() as connection:  # as above
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert (entry["journal_mode"], entry["file_system"]) == ("delete", kind)


def test_a_network_disk_is_refused_with_the_reason_before_anything_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = database._file_system(path.parent.parent)  # the type of this very disk
    monkeypatch.setattr(database, "NETWORK_FILE_SYSTEMS", frozenset({kind}))
    with refusal("E5019") as caught:
        SqlStore(str(path))
    assert f"is {kind};" in caught.value.why[0]
    assert "PostgreSQL" in caught.value.fix[1]
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("kind", "is_refused"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.s3fs")),
        *((kind, False) for kind in ("ext4", "xfs", "tmpfs", "overlay", "fuse.fuse-overlayfs")),
    ],
)
def test_which_disks_are_refused(
    kind: str, is_refused: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_file_system", lambda _folder: kind)
    if is_refused:
        with refusal("E5019"):
            SqlStore(str(path))
    else:
        SqlStore(str(path)).close()


def test_the_file_system_is_that_of_the_longest_mount() -> None:
    mounts = (
        "a / ext4 rw 0 0\nb /home nfs4 rw 0 0\nc /home/me\\040too xfs rw 0 0\nd /ho btrfs rw 0 0"
    )
    kinds = [
        database._type_of_mount(mounts, folder)  # pure, and hard to reach otherwise
        for folder in ("/home/you", "/home", "/homes", "/home/me too/x")
    ]
    assert kinds == ["nfs4", "nfs4", "ext4", "xfs"]


def test_the_version_known_to_the_code_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def migrated(path: Path) -> Database:
    database = Database(str(path))
    with database.transaction(write=True) as connection:
        upgrade(connection)
    return database


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    with (
        closing(migrated(tmp_path / "migrated.db")) as made,
        made.engine.connect() as connection,  # Alembic wants one
    ):
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def substance(path: Path) -> dict[str, object]:
    """Columns, keys, indexes, checks and rows of every table, in no order that does not matter."""
    found: dict[str, object] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row

        def told(what: str, of: str) -> list[sqlite3.Row]:
            return connection.execute(f"PRAGMA {what}({of})").fetchall()

        tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
        for name, sql in connection.execute(tables).fetchall():
            indexes = {
                (
                    each["name"] if each["origin"] == "c" else each["origin"],
                    each["unique"],
                    tuple(row["name"] for row in told("index_info", each["name"])),
                )
                for each in told("index_list", name)
            }
            rows = connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608 - our own
            found[name] = (
                {tuple(column)[1:] for column in told("table_info", name)},
                {tuple(key)[2:] for key in told("foreign_key_list", name)},
                indexes,
                "CHECK (id = 1)" in sql,
                [dict(row) for row in rows],
            )
    return found


def test_a_new_store_is_what_its_migrations_would_make(tmp_path: Path) -> None:
    migrated(tmp_path / "migrated.db").close()
    SqlStore(str(tmp_path / "new.db")).close()
    assert substance(tmp_path / "new.db") == substance(tmp_path / "migrated.db")


def test_an_older_store_is_not_opened_when_migrations_are_not_allowed(path: Path) -> None:
    with refusal("E5014"):
        SqlStore(str(path), migrate=False)
    SqlStore(str(path)).close()
    SqlStore(str(path), migrate=False).close()


def test_heavy_libraries_are_imported_only_where_they_are_used(store: SqlStore, path: Path) -> None:
    code = """
import json, sys
import orchestrator.store.codec, orchestrator.store.checkpoints, orchestrator.store.folder
first = sorted({"sqlalchemy", "alembic"} & set(sys.modules))
from orchestrator.store.sql import SqlStore
SqlStore(sys.argv[1]).close()
print(json.dumps([first, "alembic" in sys.modules]))
"""
    assert json.loads(in_another_process(code, str(path))) == [[], False]
