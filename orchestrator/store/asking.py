"""The inbox: what people asked for, durable when it is acknowledged, taken once by the driver."""

import hashlib
import json
from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.errors import StoreError
from orchestrator.messages import (
    CancelRequested,
    Event,
    PriorityChanged,
    ResumeRequested,
    RunSubmitted,
)
from orchestrator.store import rows
from orchestrator.store.codec import decode, encode, to_plain
from orchestrator.store.database import Database
from orchestrator.store.private import check_name
from orchestrator.store.schema import inbox
from orchestrator.types import RunId, Seconds

__all__ = ["ask", "is_empty", "take", "waiting"]

_Wish: TypeAlias = RunSubmitted | CancelRequested | ResumeRequested | PriorityChanged


def ask(database: Database, event: Event, key: str | None) -> RunId:
    """Put a wish into the inbox, once per key; the contract is that of `SqlStore.ask`."""
    wish = _checked(event)
    submits = wish.spec.run_id if isinstance(wish, RunSubmitted) else None
    answer = wish.spec.run_id if isinstance(wish, RunSubmitted) else wish.run_id
    if key is None and submits is not None:
        key = f"submit {submits}"
    substance = _substance(wish)
    row = {"key": key, "submits": submits, "substance": substance, "answer": answer}
    try:
        with database.transaction(write=True) as connection:
            connection.execute(insert(inbox).values(body=encode(wish), **row))
    except IntegrityError:
        return _asked_before(database, key, submits, substance)
    return answer


def take(database: Database, connection: Connection, at: Seconds) -> tuple[Event, ...]:
    """Move every waiting wish into the journal, stamped `at`, in the order of asking."""
    taken = []
    query = select(inbox.c.id, inbox.c.body).where(inbox.c.taken_seq.is_(None))
    for row in connection.execute(query.order_by(inbox.c.id)).all():
        event = replace(decode(row.body), at=at)
        seq = rows.record(database, connection, event, encode(event))
        connection.execute(update(inbox).where(inbox.c.id == row.id).values(taken_seq=seq))
        taken.append(event)
    return tuple(taken)


def waiting(connection: Connection) -> tuple[Event, ...]:
    """The wishes that no driver has taken yet, in the order of asking."""
    query = select(inbox.c.body).where(inbox.c.taken_seq.is_(None)).order_by(inbox.c.id)
    return tuple(decode(body) for body in connection.scalars(query))


def is_empty(connection: Connection) -> bool:
    """True when every wish was taken."""
    query = select(inbox.c.id).where(inbox.c.taken_seq.is_(None)).limit(1)
    return connection.execute(query).first() is None


def _checked(event: Event) -> _Wish:
    if not isinstance(event, _Wish):
        raise StoreError(
            f"{type(event).__name__} is not something that a person can ask for", code="E5009"
        )
    if isinstance(event, RunSubmitted):
        check_name(event.spec.run_id, "run")
        check_name(event.spec.project, "project")
    return event


def _substance(wish: _Wish) -> str:
    """SHA-256 of what is asked, without the time and the run id that are drawn anew each time."""
    plain = to_plain(wish)
    del plain["at"]
    if isinstance(wish, RunSubmitted):
        folder = wish.spec.folder.replace(wish.spec.run_id, "")
        plain["spec"] = to_plain(replace(wish.spec, run_id=RunId(""), folder=folder))
    text = json.dumps([type(wish).__name__, plain], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _asked_before(
    database: Database, key: str | None, submits: RunId | None, substance: str
) -> RunId:
    with database.transaction(write=False) as connection:
        row = connection.execute(select(inbox).where(inbox.c.key == key)).first()
    if row is not None and row.substance == substance:
        return RunId(row.answer)
    what, why = f"run {submits} was already submitted", ["with something else in it"]
    if row is not None and row.answer != submits:
        what, why = f"the key {key!r} was already used", [f"for run {row.answer}"]
    raise StoreError(
        what,
        code="E5009",
        why=why,
        fix=("ask again with another key, or with exactly what was asked before",),
    )
