"""The tables of sweeps: what each is, who conducts it, and its journal, each thing once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.errors import ConflictError, NotFoundError, StoreError
from orchestrator.store.database import Database
from orchestrator.store.schema import sweep_journal, sweeps
from orchestrator.types import Seconds

__all__ = ["SweepEntry", "SweepRow", "SweepTables"]

_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """A sweep. `substance` is the SHA-256 of what decides its trials, `body` its definition."""

    name: str
    at: Seconds
    epoch: int  # how often somebody began to conduct it
    state: str
    substance: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEntry:
    """One thing that a sweep recorded. `key` is its own within the sweep: it happens once."""

    at: Seconds
    kind: str
    trial: int
    key: str
    body: str


class SweepTables:
    """Reads and writes the rows of sweeps; anyone may read, who conducts a sweep writes.

    Args:
        database: Of the store; whoever made it closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, row: SweepRow) -> None:
        """Put a sweep into the store.

        Raises:
            ConflictError: E5030, there is one of this name.
        """
        values = {name: getattr(row, name) for name in SweepRow.__slots__}
        try:
            with self._database.transaction(write=True) as connection:
                connection.execute(insert(sweeps).values(**values))
        except IntegrityError as error:
            raise ConflictError(
                f"there is a sweep {row.name} already",
                code="E5030",
                fix=(f"orc sweep resume {row.name}", "or choose another name: sweep.name"),
            ) from error

    def find(self, name: str) -> SweepRow | None:
        """The sweep of this name."""
        return next(iter(self._rows(name)), None)

    def every(self) -> tuple[SweepRow, ...]:
        """Every sweep, the oldest first."""
        return self._rows(None)

    def conduct(self, name: str) -> int:
        """Begin to conduct a sweep; whoever did before is fenced off. Returns the fence.

        Raises:
            NotFoundError: E5031, there is no such sweep.
        """
        with self._database.transaction(write=True) as connection:
            epoch = _epoch(connection, name) + 1
            connection.execute(update(sweeps).where(sweeps.c.name == name).values(epoch=epoch))
        return epoch

    def record(self, name: str, epoch: int, entries: Sequence[SweepEntry]) -> None:
        """Record what happened, all or nothing, durable when this returns; each key once.

        Raises:
            StoreError: E5032, somebody else conducts the sweep by now.
        """
        fields = SweepEntry.__slots__
        rows = [{field: getattr(entry, field) for field in fields} for entry in entries]
        with self._database.transaction(write=True) as connection:
            self._check(connection, name, epoch)
            for row in rows:
                statement = self._database.insert(sweep_journal).values(sweep=name, **row)
                connection.execute(
                    statement.on_conflict_do_nothing(index_elements=["sweep", "key"])
                )

    def set_state(self, name: str, state: str, epoch: int | None = None) -> None:
        """Change what a sweep is doing; with `epoch` only as the one who conducts it.

        Raises:
            StoreError: E5032, somebody else conducts the sweep by now.
            NotFoundError: E5031, there is no such sweep.
        """
        with self._database.transaction(write=True) as connection:
            if epoch is not None:
                self._check(connection, name, epoch)
            _epoch(connection, name)
            connection.execute(update(sweeps).where(sweeps.c.name == name).values(state=state))

    def change(self, name: str, body: str) -> None:
        """Put another definition in the place of a sweep's, which goes on with it.

        Raises:
            NotFoundError: E5031, there is no such sweep.
        """
        with self._database.transaction(write=True) as connection:
            _epoch(connection, name)
            connection.execute(update(sweeps).where(sweeps.c.name == name).values(body=body))

    def journal(self, name: str, since: int = 0) -> Iterator[tuple[int, SweepEntry]]:
        """What a sweep recorded, as (number, entry) after number `since`, in order."""
        columns = [sweep_journal.c[field] for field in ("seq", *SweepEntry.__slots__)]
        while True:
            query = select(*columns).where(sweep_journal.c.sweep == name)
            query = query.where(sweep_journal.c.seq > since).order_by(sweep_journal.c.seq)
            with self._database.transaction(write=False) as connection:
                page = connection.execute(query.limit(_PAGE)).all()
            for row in page:
                plain = dict(row._mapping)
                since = plain.pop("seq")
                yield since, SweepEntry(**plain)
            if len(page) < _PAGE:
                return

    def _rows(self, name: str | None) -> tuple[SweepRow, ...]:
        query = select(sweeps).order_by(sweeps.c.at, sweeps.c.name)
        if name is not None:
            query = query.where(sweeps.c.name == name)
        with self._database.transaction(write=False) as connection:
            return tuple(SweepRow(**row._mapping) for row in connection.execute(query))

    def _check(self, connection: Connection, name: str, epoch: int) -> None:
        if _epoch(connection, name) != epoch:
            raise StoreError(
                f"somebody else conducts the sweep {name} by now",
                code="E5032",
                fix=(f"orc sweep show {name}",),
            )


def _epoch(connection: Connection, name: str) -> int:
    epoch = connection.scalar(select(sweeps.c.epoch).where(sweeps.c.name == name))
    if epoch is None:
        raise NotFoundError(
            f"there is no sweep {name!r:.80}", code="E5031", fix=("orc sweep ls lists them",)
        )
    return int(epoch)
