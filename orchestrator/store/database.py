"""Opens the store's database, durable and private, and runs transactions in it."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from orchestrator.errors import StoreError
from orchestrator.store import fresh
from orchestrator.store.private import make_folder, sync_folder
from orchestrator.store.schema import HEAD, VERSION_TABLE
from orchestrator.store.sql_faults import explained
from orchestrator.store.turns import Turns
from orchestrator.store.watch import Watch

__all__ = ["Database"]

BUSY_SECONDS = 30.0
"""How long a write waits for that of another process, which takes milliseconds."""

# SQLite's WAL needs memory that all its processes share, which no network can give:
# https://www.sqlite.org/wal.html, "Disadvantages"
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "fuse", "glusterfs", "gpfs", "lustre"),
        *("nfs", "nfs4", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
# What lies behind a FUSE mount is mostly a network; these are layers over a local disk.
LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.gocryptfs", "fuse.bindfs"})
# A disk that a virtual machine's host shares: nobody else writes, but WAL may not work there.
SHARED_FILE_SYSTEMS = frozenset({"9p", "vboxsf", "virtiofs"})

# An arbitrary number that only orchestrator uses, so that two stores are not opened for the first
# time, and then migrated, at once.
_MIGRATION_LOCK = 0x6F726368


class Database:
    """A SQLite file in WAL mode with `synchronous=FULL`, or a PostgreSQL database, by URL.

    Attributes:
        what: how messages call it.
        path: the file of SQLite, None for PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.path: Path | None = None
        if parsed.get_backend_name() == "sqlite":
            self.path = Path(parsed.database or "").expanduser().absolute()
            parsed = parsed.set(database=str(self.path))
        self.what = f"the store {self.path or parsed.render_as_string(hide_password=True)}"
        with explained(self.what):
            self.engine = _sqlite(self.path, parsed) if self.path else _postgres(parsed)
        self._watches: list[Watch] = []

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """Commit what is done inside, or roll all of it back when it raises."""
        with explained(self.what), self.engine.connect() as connection:
            connection.execution_options(orchestrator_write=write)
            with connection.begin():
                yield connection

    def version(self) -> str | None:
        """The version of the tables; None when there are none yet.

        Raises:
            StoreError: the database belongs to another program (E5001), or was written by a
                newer orchestrator (E5005).
        """
        with self.transaction(write=False) as connection:
            if not self._has_version(connection):
                names = inspect(connection).get_table_names()
                if names and self.path:
                    raise _foreign(self.what, names)
                return None
            version = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608  # a constant
        if version is not None and str(version) > HEAD:
            raise StoreError(
                f"{self.what} was written by a newer orchestrator",
                code="E5005",
                why=(f"its tables have version {version}; this orchestrator knows {HEAD}",),
                fix=("upgrade orchestrator, or use another store with ORC_HOME",),
            )
        return None if version is None else str(version)

    def _has_version(self, connection: Connection) -> bool:
        if self.path is None:
            return inspect(connection).has_table(VERSION_TABLE)
        query = (
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"  # no need to inspect
        )
        return connection.exec_driver_sql(query, (VERSION_TABLE,)).first() is not None

    def migrate(self) -> None:
        """Bring the tables to the newest version, in one transaction."""
        with self.transaction(write=True) as connection:
            if self.path is not None and not self._has_version(connection):
                fresh.create(connection)  # nobody else was first meanwhile
                return
            from orchestrator.store.migrations import upgrade

            if self.path is None:
                connection.execute(select(text(f"pg_advisory_xact_lock({_MIGRATION_LOCK})")))
            upgrade(connection)

    def insert(self, table: Table) -> Any:
        """An INSERT of the database's dialect, which both know to follow by ON CONFLICT."""
        if self.path:
            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    def watch(self) -> Watch:
        """A way to ask cheaply, and often, whether anything has been committed."""
        made = Watch(self.path, BUSY_SECONDS)
        self._watches.append(made)
        return made

    def close(self) -> None:
        """Close every connection."""
        for each in self._watches:
            each.close()
        self.engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            f"{url!r} is not the address of a store", code="E5001", fix=(_SAMPLES,)
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"a store cannot be kept in {backend}", code="E5001", fix=(_SAMPLES,))
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(
            "a store needs a file: what is kept in memory is lost with the process",
            code="E5001",
            fix=(_SAMPLES,),
        )
    return parsed


_SAMPLES = "use sqlite:////path/to/orchestrator.db or postgresql://user@host/database"


def _foreign(what: str, names: list[str]) -> StoreError:
    return StoreError(
        f"{what} belongs to another program",
        code="E5001",
        why=(f"it holds {', '.join(sorted(names)[:5])} and no table {VERSION_TABLE}",),
        fix=("choose another file, or another folder with ORC_HOME",),
    )


def _sqlite(path: Path, url: URL) -> Engine:
    _refuse_network(path)
    make_folder(path.parent)
    if not path.exists():
        _create(path)
    mode = _settle(path, path.parent)
    if mode != "wal":
        import structlog  # half as large as all else that reading a store takes

        structlog.get_logger().warning(
            "the store works without a write-ahead log: readers and the driver wait for each other",
            path=str(path),
            journal_mode=mode,
            file_system=_file_system(path.parent),
            fix="keep the store on a local disk (ORC_HOME), or use PostgreSQL",
        )
    engine = create_engine(
        url, connect_args={"timeout": BUSY_SECONDS}, pool_size=5, max_overflow=-1
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", partial(_begin, Turns(path.with_name(f"{path.name}.turn"))))
    return engine


def _refuse_network(path: Path) -> None:
    """Refuse a file whose locks and order of writes a network may not keep."""
    place = next(parent for parent in path.parents if parent.exists())
    kind = _file_system(place)
    is_fuse = kind.startswith("fuse.") and kind not in LOCAL_FUSE
    if kind in NETWORK_FILE_SYSTEMS or is_fuse:
        raise StoreError(
            f"the store {path} would lie on a network disk",
            code="E5019",
            why=(
                f"{place} is {kind}; SQLite needs locks and memory that all its processes share,"
                " and a network gives neither: acknowledged runs could be lost",
            ),
            fix=(
                "keep the store on a local disk: --home DIR, or ORC_HOME",
                "or in PostgreSQL, which several machines can use:"
                " ORC_STORE=postgresql://user@host/database",
            ),
        )


def _settle(path: Path | str, folder: Path) -> str:
    """Put a database into the journal mode that its folder can bear; tell which one it has."""
    wanted = "delete" if _file_system(folder) in SHARED_FILE_SYSTEMS else "wal"
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != wanted:
            mode = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0]
            # An empty file keeps no journal mode; this makes SQLite write its first page.
            connection.execute("PRAGMA user_version=1")
    return str(mode)


def _create(path: Path) -> None:
    """Make an empty database, private and in its journal mode, and only then give it its name.

    The name appears last because two processes may do this at once, and because closing a second
    descriptor of a database would drop the locks that this process holds on it.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    os.close(handle)
    try:
        _settle(temporary, path.parent)
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first, with the same result
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(temporary + suffix).unlink(missing_ok=True)
    sync_folder(path.parent)


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder, "" where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace")
    except OSError:
        return ""
    return _type_of_mount(mounts, str(folder.resolve()))


def _type_of_mount(mounts: str, folder: str) -> str:
    best = ("", "")
    for line in mounts.splitlines():
        point, kind = line.split(" ")[1:3]
        point = point.replace("\\040", " ")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def _prepare(connection: Any, _record: object) -> None:
    # None: the driver begins no transactions by itself, `_begin` does.
    connection.isolation_level = None
    with closing(connection.cursor()) as cursor:
        cursor.execute("PRAGMA foreign_keys=ON")
        mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
        # Without WAL, only EXTRA makes the end of the rollback journal durable too.
        cursor.execute(f"PRAGMA synchronous={'FULL' if mode == 'wal' else 'EXTRA'}")


def _begin(turns: Turns, connection: Connection) -> None:
    if not connection.get_execution_options().get("orchestrator_write", False):
        connection.exec_driver_sql("BEGIN")
        return
    with turns.waiting():
        # IMMEDIATE takes the write lock at once: taking it later can fail without waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgres(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    arguments = {} if "options" in url.query else {"options": "-c synchronous_commit=on"}
    try:
        return create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(
            "the driver of PostgreSQL is not installed",
            code="E5015",
            why=(str(error),),
            fix=('pip install "psycopg[binary]"',),
        ) from error
