"""The store in SQL: journal, projections, inbox; SQLite by default, PostgreSQL by URL."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from orchestrator.errors import StoreError
from orchestrator.messages import Event
from orchestrator.plan.correct import Peak
from orchestrator.store import asking, book, findings, lists, rows
from orchestrator.store.asking import Wish
from orchestrator.store.codec import encode
from orchestrator.store.database import Database
from orchestrator.store.lease import BEAT_SECONDS, beat, check_epoch, held, locked
from orchestrator.store.reading import StoreReader
from orchestrator.store.schema import HEAD
from orchestrator.types import RunId, RunStatus, Seconds

__all__ = ["SqlStore"]


_AT_ONCE = 50  # rows in a transaction: askers wait for it


class SqlStore(StoreReader):
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
            (E5006), unreachable (E5015), a file on a network disk (E5019).
    """

    def __init__(
        self, url: str, *, migrate: bool = True, now: Callable[[], Seconds] = time.time
    ) -> None:
        super().__init__(Database(url))
        self._now = now
        self._epoch: int | None = None
        self._next_beat: Seconds = 0.0  # of the monotonic clock
        self._watch = self._database.watch()
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
        """Be the driver of this store while inside; `receive` gives its signs of life.

        Raises:
            StoreError: another driver has it (E5006); says which, where and since when.
        """
        with held(self._database, owner, self._now()) as epoch:
            self._epoch = epoch
            try:
                with self._writing() as connection:
                    asking.forget_drains(connection)
                    lists.forget_nodes(connection)  # whoever drives announces them anew
                yield self
            finally:
                self._epoch = None

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
        for at in range(0, len(statuses), _AT_ONCE):
            made = [rows.status_row(status) for status in statuses[at : at + _AT_ONCE]]
            with self._writing() as connection:
                rows.write_statuses(self._database, connection, made)

    def put_up(self, name: str, value: object) -> None:
        """Tell people something of the cluster as a whole; raises as `append` does."""
        with self._writing() as connection:
            lists.put_up(self._database, connection, name, value)

    def receive(self, at: Seconds) -> Sequence[Event]:
        """Move what people asked for to the journal, stamped `at`; raises as `append` does.

        At most fifty at a time.
        """
        if self._epoch is not None and time.monotonic() >= self._next_beat:
            beat(self._database, self._epoch)
            self._next_beat = time.monotonic() + BEAT_SECONDS
        if not self._watch.has_changed():
            return ()
        with self._database.transaction(write=False) as connection:
            found = asking.oldest(connection)
        if not found:
            return ()
        made = asking.stamped(found, at)
        with self._writing() as connection:
            return asking.take(connection, made)

    def replay(self) -> Iterator[Event]:
        """Every recorded event in the order it was recorded."""
        return (event for _, event in self.events())

    def ask(self, event: Event, key: str | None = None) -> RunId:
        """Ask the driver for something, now or whenever one runs; durable when this returns.

        Args:
            event: a submission, a cancellation, a resumption, a change of priority or of place,
                or a drain.
            key: asking again with the same key for the same is asking once. "The same" leaves out
                when it was asked and, for a submission, the run id that was drawn for it.

        Returns:
            The id of the run; for a submission asked again, that of the first asking.

        Raises:
            ConflictError: the key, or the run id of a submission, was used for something else
                (E5009).
            StoreError: a name that cannot be one (E5011).
        """
        return self.ask_all([Wish(event=event, key=key)])[0]

    def ask_all(self, wishes: Sequence[Wish]) -> tuple[RunId, ...]:
        """Ask for several things, all or none of them; raises as `ask`."""
        return asking.ask(self._database, wishes) if wishes else ()

    def record_peak(self, peak: Peak) -> None:
        """Put a measured peak into the book; anyone may, since no decision of the driver is in it.

        A second row of the same attempt and micro-batch keeps the larger peaks of the two.
        """
        with self._database.transaction(write=True) as connection:
            book.record(self._database, connection, peak)

    def forget_findings(self, model: str) -> int:
        """Forget which settings were measured for a model: its next run tries them anew.

        Anyone may, since no decision of the driver is in them. Returns how many were known.
        """
        with self._database.transaction(write=True) as connection:
            return findings.forget(connection, model)

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
