"""The rows of the book: measured peaks, one of each attempt and cut; inside a transaction."""

from typing import Any

from sqlalchemy import Connection, case, func, select

from orchestrator.plan.correct import Peak
from orchestrator.store.database import Database
from orchestrator.store.schema import book

__all__ = ["peaks", "record"]

_FIELDS = tuple(column.name for column in book.columns if column.name != "id")
_FLAGS = ("is_emulated", "has_validation")  # whole numbers in the table


def record(database: Database, connection: Connection, peak: Peak) -> None:
    """Put a peak into the book, or let the row of its attempt and cut grow by it.

    Peaks keep the larger value; steps are those watched so far, as the attempt counts them.
    """
    row = {name: getattr(peak, name) for name in _FIELDS}
    row |= {name: int(row[name]) for name in _FLAGS}
    statement = database.insert(book).values(**row)
    given = statement.excluded
    larger = {
        name: case((given[name] > book.c[name], given[name]), else_=book.c[name])
        for name in ("peak_bytes", "peak_reserved_bytes", "steps", "has_validation")
    }
    known = func.coalesce(given.predicted_bytes, book.c.predicted_bytes)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[book.c.attempt, book.c.micro_batch],
            set_={**larger, "predicted_bytes": known, "at": given.at},
        )
    )


def peaks(connection: Connection, model: str | None = None) -> tuple[Peak, ...]:
    """Every row, or those of a model, in the order of recording."""
    query = select(book).order_by(book.c.id)
    if model is not None:
        query = query.where(book.c.model == model)
    rows = (dict(row._mapping) for row in connection.execute(query))
    return tuple(_peak(row) for row in rows)


def _peak(row: dict[str, Any]) -> Peak:
    found = {name: row[name] for name in _FIELDS}
    return Peak(**found | {name: bool(row[name]) for name in _FLAGS})
