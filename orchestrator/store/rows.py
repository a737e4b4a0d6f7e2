"""Reads and writes the rows of the store; each function works inside its caller's transaction."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, insert, select

from orchestrator.errors import StoreError
from orchestrator.messages import AttemptEvent, Event, ProgressReported, RunSubmitted
from orchestrator.store.codec import decode, from_plain, to_plain
from orchestrator.store.database import Database
from orchestrator.store.findings import note
from orchestrator.store.lists import note_event
from orchestrator.store.schema import checkpoints, inbox, journal, progress, runs
from orchestrator.types import CheckpointRef, Progress, RunStatus

__all__ = [
    "checkpoints_of",
    "journal_page",
    "may_write",
    "progress_of",
    "record",
    "record_asked",
    "status",
    "status_row",
    "statuses",
    "submission",
    "write_statuses",
]

_Value = TypeVar("_Value")


def may_write(connection: Connection, event: Event) -> bool:
    """False when the event is fenced off, or repeats an epoch that is recorded already."""
    if not isinstance(event, AttemptEvent):
        return True
    attempt = event.attempt
    fence = select(runs.c.attempt, runs.c.is_terminal).where(runs.c.run_id == attempt.run_id)
    run = connection.execute(fence).first()
    if run is None or run.is_terminal or run.attempt != attempt.number:
        return False
    if isinstance(event, ProgressReported):
        recorded = connection.scalar(
            select(progress.c.attempt).where(
                progress.c.run_id == attempt.run_id, progress.c.epoch == event.progress.epoch
            )
        )
        return recorded is None or recorded < attempt.number
    return True


def record(database: Database, connection: Connection, event: Event, body: str) -> int:
    """Put an event into the journal, and its epoch and checkpoint beside it; return its number."""
    row = _journal_row(event, body)
    key = connection.execute(insert(journal).values(**row)).inserted_primary_key
    assert key is not None
    seq = int(key[0])
    if isinstance(event, ProgressReported):
        _record_epoch(database, connection, event, seq)
        note(database, connection, event)
    note_event(database, connection, event)
    return seq


def record_asked(connection: Connection, asked: Sequence[tuple[Event, str]]) -> list[int]:
    """Put what people asked for into the journal, with its text; return the numbers."""
    made = [_journal_row(event, body) for event, body in asked]
    statement = insert(journal).returning(journal.c.seq, sort_by_parameter_order=True)
    return [int(seq) for seq in connection.scalars(statement, made)]


def _journal_row(event: Event, body: str) -> dict[str, Any]:
    attempt = event.attempt if isinstance(event, AttemptEvent) else None
    return {
        "at": event.at,
        "run_id": attempt.run_id if attempt else _run_of(event),
        "attempt": attempt.number if attempt else None,
        "kind": type(event).__name__,
        "body": body,
    }


def status_row(published: RunStatus) -> dict[str, Any]:
    """What `write_statuses` writes; worked out before others have to wait for it."""
    return {
        "run_id": published.run_id,
        "project": published.project,
        "state": published.state.value,
        "is_terminal": int(published.state.is_terminal),
        "attempt": published.attempt,
        "submitted_at": published.submitted_at,
        "body": _text(published),
    }


def write_statuses(
    database: Database, connection: Connection, made: Sequence[dict[str, Any]]
) -> None:
    """Put rows of runs, made by `status_row`, in place of their last ones.

    Raises:
        StoreError: a row belongs to a newer attempt: attempts only grow (E5017).
    """
    statement = database.insert(runs)
    given = {name: statement.excluded[name] for name in made[0] if name != "run_id"}
    statement = statement.on_conflict_do_update(
        index_elements=[runs.c.run_id],
        set_=given,
        where=runs.c.attempt <= statement.excluded.attempt,
    )
    # Without the option SQLAlchemy forgets how many rows an INSERT touched.
    result = connection.execute(statement, made, execution_options={"preserve_rowcount": True})
    if result.rowcount != len(made):
        raise _of_newer_attempt(connection, made)


def _of_newer_attempt(connection: Connection, made: Sequence[dict[str, Any]]) -> StoreError:
    asked = {row["run_id"]: row["attempt"] for row in made}
    known = connection.execute(
        select(runs.c.run_id, runs.c.attempt).where(runs.c.run_id.in_(asked))
    )
    run_id = next(row.run_id for row in known if row.attempt > asked[row.run_id])
    return StoreError(
        f"run {run_id} cannot go back to attempt {asked[run_id]}",
        code="E5017",
        why=("a newer attempt of it was published before",),
        fix=("this is a bug in orchestrator: please report it",),
    )


def statuses(connection: Connection, project: str | None) -> tuple[RunStatus, ...]:
    """The rows of all runs or of a project's, oldest submission first."""
    query = select(runs.c.body).order_by(runs.c.submitted_at, runs.c.run_id)
    if project is not None:
        query = query.where(runs.c.project == project)
    return tuple(_value(RunStatus, body) for body in connection.scalars(query))


def status(connection: Connection, run_id: str) -> RunStatus | None:
    """The row of a run."""
    body = connection.scalar(select(runs.c.body).where(runs.c.run_id == run_id))
    return None if body is None else _value(RunStatus, body)


def submission(connection: Connection, run_id: str) -> RunSubmitted | None:
    """The event that submitted a run, from the journal or else from the inbox."""
    taken = select(journal.c.body).where(
        journal.c.run_id == run_id, journal.c.kind == RunSubmitted.__name__
    )
    body = connection.scalar(taken.order_by(journal.c.seq).limit(1))
    if body is None:
        body = connection.scalar(select(inbox.c.body).where(inbox.c.submits == run_id))
    event = None if body is None else decode(body)
    return event if isinstance(event, RunSubmitted) else None


def progress_of(connection: Connection, run_id: str, after: int = 0) -> tuple[Progress, ...]:
    """One row per completed epoch of a run after the given one."""
    query = select(progress.c.body).where(progress.c.run_id == run_id, progress.c.epoch > after)
    query = query.order_by(progress.c.epoch)
    return tuple(_value(Progress, body) for body in connection.scalars(query))


def checkpoints_of(connection: Connection, run_id: str) -> tuple[CheckpointRef, ...]:
    """The checkpoints of a run, the last recorded first."""
    query = select(checkpoints.c.body).where(checkpoints.c.run_id == run_id)
    found = connection.scalars(query.order_by(checkpoints.c.seq.desc()))
    return tuple(_value(CheckpointRef, body) for body in found)


def journal_page(
    connection: Connection, run_id: str | None, since: int, limit: int
) -> list[tuple[int, Event]]:
    """At most `limit` events with numbers above `since`, in order."""
    query = select(journal.c.seq, journal.c.body).where(journal.c.seq > since)
    if run_id is not None:
        query = query.where(journal.c.run_id == run_id)
    found = connection.execute(query.order_by(journal.c.seq).limit(limit))
    return [(row.seq, decode(row.body)) for row in found]


def _run_of(event: Event) -> str | None:
    if isinstance(event, RunSubmitted):
        return event.spec.run_id
    run_id = getattr(event, "run_id", None)
    return None if run_id is None else str(run_id)


def _record_epoch(
    database: Database, connection: Connection, event: ProgressReported, seq: int
) -> None:
    key = {"run_id": event.attempt.run_id, "epoch": event.progress.epoch}
    _replace(database, connection, progress, key, _epoch_row(event, seq, event.progress))
    if event.checkpoint is not None:
        _replace(database, connection, checkpoints, key, _epoch_row(event, seq, event.checkpoint))
    else:  # what an older attempt wrote for this epoch is not part of the run any more
        connection.execute(
            delete(checkpoints).where(
                checkpoints.c.run_id == key["run_id"], checkpoints.c.epoch == key["epoch"]
            )
        )


def _epoch_row(event: ProgressReported, seq: int, value: object) -> dict[str, Any]:
    return {"attempt": event.attempt.number, "seq": seq, "body": _text(value)}


def _replace(
    database: Database,
    connection: Connection,
    table: Table,
    key: dict[str, Any],
    row: dict[str, Any],
) -> None:
    statement = database.insert(table).values(**key, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=row))


def _text(value: object) -> str:
    return json.dumps(to_plain(value), allow_nan=False, separators=(",", ":"))


def _value(kind: type[_Value], body: str) -> _Value:
    return from_plain(kind, json.loads(body))
