"""One driver per store: a lock that the system frees at death, and an epoch that fences writes."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from sqlalchemy import Connection, select, text, update

from orchestrator.errors import StoreError
from orchestrator.store.database import Database
from orchestrator.store.schema import lease
from orchestrator.store.sql_faults import explained
from orchestrator.types import Seconds

__all__ = ["Driver", "check_epoch", "driver_of", "held", "locked", "taken"]

# The two halves of the advisory lock's key: "orch", and the schema that the tables lie in.
_POSTGRES_KEY = "1869767528, hashtext(current_schema())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Who drives a store, or did last. `since` is Unix time in seconds."""

    owner: str
    host: str
    pid: int
    since: Seconds

    @property
    def is_alive(self) -> bool:
        """False when it ran on this host and its process is gone; True when that cannot be told."""
        if self.host != socket.gethostname():
            return True
        try:
            # The number may have been given to a younger process since.
            return bool(psutil.Process(self.pid).create_time() <= self.since)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.owner or 'a driver'} on {self.host}, pid {self.pid}, since {since}"


@contextmanager
def held(database: Database, owner: str, since: Seconds) -> Iterator[int]:
    """Hold the store as its only driver; the value is the epoch of the lease.

    Raises:
        StoreError: another driver holds it (E5006).
    """
    me = {"owner": owner, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    with locked(database):
        with database.transaction(write=True) as connection:
            connection.execute(update(lease).values(epoch=lease.c.epoch + 1, **me))
            epoch = int(connection.scalar(select(lease.c.epoch)) or 0)
        try:
            yield epoch
        finally:
            nobody = dict.fromkeys(me)
            # These names are for people, and `is_alive` tells them apart from a living driver's;
            # the lock is free either way, and what ended the driver must not be hidden.
            with suppress(StoreError), database.transaction(write=True) as connection:
                connection.execute(update(lease).where(lease.c.epoch == epoch).values(**nobody))


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Hold the driver's lock, which the system frees when the process ends, however it ends."""
    with ExitStack() as stack:
        if database.path is not None:
            got = stack.enter_context(_file_lock(database.path.with_name(_lock_name(database))))
        else:
            got = stack.enter_context(_advisory_lock(database))
        if not got:
            raise taken(database)
        yield


def check_epoch(connection: Connection, epoch: int) -> None:
    """Refuse a write of a driver that another one has followed.

    The row stays locked until the transaction ends, so the next driver cannot come in between.

    Raises:
        StoreError: the lease has another epoch (E5007).
    """
    now = connection.scalar(select(lease.c.epoch).with_for_update(read=True))
    if now != epoch:
        raise StoreError(
            "this driver was superseded and must not write any more",
            code="E5007",
            why=(f"it holds lease {epoch}; the store is at lease {now}",),
            fix=("stop this process: the newer driver goes on with its runs",),
        )


def driver_of(database: Database) -> Driver | None:
    """Who is written down as the driver; None when the last one left in good order."""
    with database.transaction(write=False) as connection:
        row = connection.execute(select(lease)).one()
    if row.host is None:
        return None
    return Driver(owner=row.owner, host=row.host, pid=row.pid, since=row.since)


def _lock_name(database: Database) -> str:
    assert database.path is not None
    return f"{database.path.name}.lock"


@contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    with explained(f"the lock {path}"):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def _advisory_lock(database: Database) -> Iterator[bool]:
    # A session's lock: it lives as long as this connection, and no transaction stays open with it.
    with explained(database.what):
        session = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        with explained(database.what):
            got = session.scalar(text(f"SELECT pg_try_advisory_lock({_POSTGRES_KEY})"))
        try:
            yield bool(got)
        finally:
            # Told, because the server notices a closed connection only some time later.
            with suppress(StoreError), explained(database.what):
                if got:
                    session.execute(text(f"SELECT pg_advisory_unlock({_POSTGRES_KEY})"))
    finally:
        # Closed for good: whatever happened, a pooled connection must not keep the lock.
        session.invalidate()
        session.close()


def taken(database: Database) -> StoreError:
    """The error of a second driver: who holds the store, and what to do."""
    driver = driver_of(database)
    return StoreError(
        f"{database.what} already has a driver",
        code="E5006",
        why=(str(driver) if driver else "it has just started",),
        fix=(
            "let that driver train it too: orc train --hand-over CONFIG",
            "use another store: --home DIR (its runs know nothing of these cards' other runs)",
            f"or stop that process first{f': kill {driver.pid}' if driver else ''}",
        ),
    )
