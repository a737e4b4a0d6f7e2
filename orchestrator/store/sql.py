"""The store in SQL: journal, projections, inbox; SQLite by default, PostgreSQL by URL."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from orchestrator.errors import NotFoundError, StoreError
from orchestrator.messages import Event
from orchestrator.plan.correct import Peak
from orchestrator.store import asking, book, rows
from orchestrator.store.codec import encode
from orchestrator.store.database import Database
from orchestrator.store.lease import Driver, check_epoch, driver_of, held, locked, taken
from orchestrator.store.schema import HEAD
from orchestrator.types import CheckpointRef, Progress, RunId, RunSpec, RunStatus, Seconds

__all__ = ["SqlStore"]

_PAGE = 500


class SqlStore:
    """Keeps the Store contract in a database, and lets other processes ask and read meanwhile.

    Anyone may ask and read. Only the driver, inside `drive`, may append, publish and receive;
    each of these is one transaction that also checks that no newer driver has come.

    Args:
        url: ``sqlite:////absolute/path.db``, the path of a SQLite file, or ``postgresql://...``.
        migrate: bring older tables to this version; False refuses to open them (E5014).
        now: tells the Unix time that is written beside the driver's name.

    Raises:
        StoreError: not a database of ours (E5001), locked (E5002), read-only (E5003), the disk is
            full (E5004), of a newer version (E5005), in need of a migration while a driver runs
            (E5006), unreachable (E5015).
    """

    def __init__(
        self, url: str, *, migrate: bool = True, now: Callable[[], Seconds] = time.time
    ) -> None:
        self._database = Database(url)
        self._now = now
        self._epoch: int | None = None
        try:
            self._bring_up_to_date(migrate=migrate)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; whatever was acknowledged stays."""
        self._database.close()

    @contextmanager
    def drive(self, owner: str = "") -> Iterator[Self]:
        """Be the driver of this store while inside.

        Raises:
            StoreError: another driver has it (E5006); says which, where and since when.
        """
        with held(self._database, owner, self._now()) as epoch:
            self._epoch = epoch
            try:
                yield self
            finally:
                self._epoch = None

    def driver(self) -> Driver | None:
        """Who drives the store now; None when nobody does."""
        driver = driver_of(self._database)
        return driver if driver is not None and driver.is_alive else None

    def demand_no_driver(self) -> None:
        """Raise StoreError (E5006) where somebody drives the store."""
        if self.driver() is not None:
            raise taken(self._database)

    def append(self, event: Event) -> bool:
        """Record an event; False, and nothing recorded, when it is fenced off.

        Raises:
            StoreError: this store was not opened as the driver's (E5008), a newer driver has it
                (E5007), or the disk or database failed.
        """
        if event.is_volatile:
            return True
        body = encode(event)
        with self._writing() as connection:
            if not rows.may_write(connection, event):
                return False
            rows.record(self._database, connection, event, body)
            return True

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        """Update the rows that people read, and with them the fence; raises as `append` does."""
        if not statuses:
            return
        with self._writing() as connection:
            for status in statuses:
                rows.write_status(self._database, connection, status)

    def receive(self, at: Seconds) -> Sequence[Event]:
        """Move what people asked for to the journal, stamped `at`; raises as `append` does."""
        if self.inbox_is_empty():
            return ()
        with self._writing() as connection:
            return asking.take(self._database, connection, at)

    def replay(self) -> Iterator[Event]:
        """Every recorded event in the order it was recorded."""
        return (event for _, event in self.events())

    def ask(self, event: Event, key: str | None = None) -> RunId:
        """Ask the driver for something, now or whenever one runs; durable when this returns.

        Args:
            event: a submission, a cancellation, a resumption or a change of priority.
            key: asking again with the same key for the same is asking once. "The same" leaves out
                when it was asked and, for a submission, the run id that was drawn for it.

        Returns:
            The id of the run; for a submission asked again, that of the first asking.

        Raises:
            StoreError: the key, or the run id of a submission, was used for something else
                (E5009); a name that cannot be one (E5011).
        """
        return asking.ask(self._database, event, key)

    def inbox_is_empty(self) -> bool:
        """True when the driver has taken everything that was asked."""
        with self._database.transaction(write=False) as connection:
            return asking.is_empty(connection)

    def waiting(self) -> tuple[Event, ...]:
        """What was asked and no driver has taken yet, in the order of asking."""
        with self._database.transaction(write=False) as connection:
            return asking.waiting(connection)

    def statuses(self, project: str | None = None) -> tuple[RunStatus, ...]:
        """The published row of every run, or of those of a project, oldest submission first."""
        with self._database.transaction(write=False) as connection:
            return rows.statuses(connection, project)

    def status(self, run_id: str) -> RunStatus:
        """The published row of a run.

        Raises:
            NotFoundError: no such run, or no driver has taken it yet (E5020).
        """
        with self._database.transaction(write=False) as connection:
            found = rows.status(connection, run_id)
            is_waiting = found is None and rows.submission(connection, run_id) is not None
        if found is None:
            raise _not_found(run_id, is_waiting=is_waiting)
        return found

    def spec(self, run_id: str) -> RunSpec:
        """What was submitted, from the journal or, when no driver has taken it yet, the inbox.

        Raises:
            NotFoundError: no such run (E5020).
        """
        with self._database.transaction(write=False) as connection:
            found = rows.submission(connection, run_id)
        if found is None:
            raise _not_found(run_id, is_waiting=False)
        return found.spec

    def progress(self, run_id: str) -> tuple[Progress, ...]:
        """One row per completed epoch, in the order of epochs; of the newest attempt each."""
        with self._database.transaction(write=False) as connection:
            return rows.progress_of(connection, run_id)

    def checkpoints(self, run_id: str) -> tuple[CheckpointRef, ...]:
        """The recorded checkpoints, the last recorded first. Older files may have been removed."""
        with self._database.transaction(write=False) as connection:
            return rows.checkpoints_of(connection, run_id)

    def events(self, run_id: str | None = None, since: int = 0) -> Iterator[tuple[int, Event]]:
        """The journal as (number, event) in the order of recording, of one run or of all.

        Args:
            run_id: only events of this run.
            since: only events with a larger number; the last number seen continues a reading.
        """
        while True:
            with self._database.transaction(write=False) as connection:
                page = rows.journal_page(connection, run_id, since, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            since = page[-1][0]

    def record_peak(self, peak: Peak) -> None:
        """Put a measured peak into the book; anyone may, since no decision of the driver is in it.

        A second row of the same attempt and micro-batch keeps the larger peaks of the two.
        """
        with self._database.transaction(write=True) as connection:
            book.record(self._database, connection, peak)

    def peaks(self, model: str | None = None) -> tuple[Peak, ...]:
        """The book of measured peaks, or what it says of a model, oldest first."""
        with self._database.transaction(write=False) as connection:
            return book.peaks(connection, model)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._epoch is None:
            raise StoreError(
                "this store was opened for asking and reading; only its driver may write",
                code="E5008",
                fix=("write inside `with store.drive(owner=...)`",),
            )
        with self._database.transaction(write=True) as connection:
            check_epoch(connection, self._epoch)
            yield connection

    def _bring_up_to_date(self, *, migrate: bool) -> None:
        version = self._database.version()
        if version == HEAD:
            return
        if not migrate:
            raise StoreError(
                f"{self._database.what} needs a migration",
                code="E5014",
                why=(f"its tables have version {version or 'none'}; this is version {HEAD}",),
                fix=("open it once with migrations allowed",),
            )
        if version is None:
            self._database.migrate()
            return
        with locked(self._database):  # a running driver would write to tables it does not know
            self._database.migrate()


def _not_found(run_id: str, *, is_waiting: bool) -> NotFoundError:
    if is_waiting:
        return NotFoundError(
            f"run {run_id} was submitted, and no driver has taken it yet",
            code="E5020",
            fix=("start a driver, or wait for it",),
        )
    return NotFoundError(f"there is no run {run_id}", code="E5020", fix=("orc ls lists the runs",))
