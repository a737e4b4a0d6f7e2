"""One driver per store: a lock that the system frees at death, and an epoch that fences writes."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, extract, func, literal, select, text, update

from orchestrator.errors import StoreError
from orchestrator.store.database import Database
from orchestrator.store.schema import lease
from orchestrator.store.sql_faults import explained
from orchestrator.types import Seconds

__all__ = ["Driver", "beat", "check_epoch", "driver_of", "held", "locked", "taken"]

BEAT_SECONDS: Seconds = 5.0
"""How often a driver gives a sign of life."""

SILENT_SECONDS: Seconds = 60.0
"""A driver on another host that has been silent for so long is dead; starting Ray takes less."""

# The two halves of the advisory lock's key: "orch", and the schema that the tables lie in.
_POSTGRES_KEY = "1869767528, hashtext(current_schema())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Who drives a store, or did last. `since` is Unix time in seconds.

    `silent_seconds` have passed since its last sign of life, by the clock of the store; None where
    it gives none.
    """

    owner: str
    host: str
    pid: int
    since: Seconds
    silent_seconds: Seconds | None = None

    @property
    def is_alive(self) -> bool:
        """False when its process is gone, or when it ran on another host and is silent."""
        if self.host != socket.gethostname():
            return self.silent_seconds is None or self.silent_seconds < SILENT_SECONDS
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
            told = {**me, "beat": _now(database)}
            connection.execute(update(lease).values(epoch=lease.c.epoch + 1, **told))
            epoch = int(connection.scalar(select(lease.c.epoch)) or 0)
        try:
            yield epoch
        finally:
            nobody = dict.fromkeys((*me, "beat"))
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


def beat(database: Database, epoch: int) -> None:
    """Give a sign of life, unless another driver has followed."""
    with database.transaction(write=True) as connection:
        now = _now(database)
        connection.execute(update(lease).where(lease.c.epoch == epoch).values(beat=now))


def _now(database: Database) -> Any:
    """The clock that all hosts that use the store share: the server's, or this machine's."""
    if database.path is None:
        return extract("epoch", func.clock_timestamp())
    return literal(time.time())


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
        row = connection.execute(select(lease, _now(database).label("now"))).one()
    if row.host is None:
        return None
    silent = None if row.beat is None else max(0.0, float(row.now) - row.beat)
    return Driver(
        owner=row.owner, host=row.host, pid=row.pid, since=row.since, silent_seconds=silent
    )


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
            "let that driver train it too: orc submit CONFIG, or orc train --hand-over CONFIG",
            "use another store: --home DIR (its runs know nothing of these cards' other runs)",
            "or let it leave first, its runs saved: orc serve --stop"
            f"{f' (at once: kill {driver.pid})' if driver else ''}",
        ),
    )
