"""The inbox: what people asked for, durable when it is acknowledged, taken once by the driver."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.errors import ConflictError, StoreError
from orchestrator.messages import (
    CancelRequested,
    DrainRequested,
    Event,
    PlaceMended,
    PolicyChanged,
    PriorityChanged,
    QueueChanged,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
)
from orchestrator.store import rows
from orchestrator.store.codec import decode, encode, to_plain
from orchestrator.store.database import Database
from orchestrator.store.private import check_name
from orchestrator.store.schema import inbox
from orchestrator.types import RunId, Seconds

__all__ = ["Wish", "answer_to", "ask", "forget_drains", "is_empty", "take", "waiting"]

_OfRun: TypeAlias = CancelRequested | ResumeRequested | PriorityChanged | RunMoved
_OfAll: TypeAlias = QueueChanged | PolicyChanged | PlaceMended | DrainRequested
_Asked: TypeAlias = RunSubmitted | _OfRun | _OfAll
_DRAIN = "drain "  # how the key of a drain begins
_AT_ONCE = 50  # wishes in a transaction: askers wait for it, and it takes 15 ms
_ATTEMPTS = 3  # another asker may be first, once for each of a few keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Something to ask for. `fingerprint` tells equal submissions whatever their ids and plans."""

    event: Event
    key: str | None = None
    fingerprint: str | None = None


def ask(database: Database, wishes: Sequence[Wish]) -> tuple[RunId, ...]:
    """Put wishes into the inbox, all or none, each once per key; as `SqlStore.ask_all`."""
    made = [(wish, _row(wish)) for wish in wishes]
    for attempt in range(_ATTEMPTS):
        try:
            with database.transaction(write=True) as connection:
                return tuple(_put(connection, wish, row) for wish, row in made)
        except IntegrityError:  # another asker was first; the next look finds what it asked
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def answer_to(connection: Connection, key: str) -> RunId | None:
    """The run that this key was used for."""
    answer = connection.scalar(select(inbox.c.answer).where(inbox.c.key == key))
    return None if answer is None else RunId(answer)


def take(database: Database, connection: Connection, at: Seconds) -> tuple[Event, ...]:
    """Move the oldest waiting wishes into the journal, stamped `at`, in the order of asking."""
    taken, marks = [], []
    query = select(inbox.c.id, inbox.c.body).where(inbox.c.taken_seq.is_(None))
    for row in connection.execute(query.order_by(inbox.c.id).limit(_AT_ONCE)).all():
        event = replace(decode(row.body), at=at)
        seq = rows.record(database, connection, event, encode(event))
        marks.append({"wish": row.id, "seq": seq})
        taken.append(event)
    if marks:
        mark = update(inbox).where(inbox.c.id == bindparam("wish"))
        connection.execute(mark.values(taken_seq=bindparam("seq")), marks)
    return tuple(taken)


def waiting(connection: Connection) -> tuple[Event, ...]:
    """The wishes that no driver has taken yet, in the order of asking."""
    query = select(inbox.c.body).where(inbox.c.taken_seq.is_(None)).order_by(inbox.c.id)
    return tuple(decode(body) for body in connection.scalars(query))


def forget_drains(connection: Connection) -> None:
    """Drop requests to leave that were meant for a driver that has ended."""
    connection.execute(
        delete(inbox).where(inbox.c.taken_seq.is_(None), inbox.c.key.startswith(_DRAIN))
    )


def is_empty(connection: Connection) -> bool:
    """True when every wish was taken."""
    query = select(inbox.c.id).where(inbox.c.taken_seq.is_(None)).limit(1)
    return connection.execute(query).first() is None


def _row(wish: Wish) -> dict[str, Any]:
    asked = _checked(wish.event)
    submits, key, answer = None, wish.key, ""
    if isinstance(asked, RunSubmitted):
        submits = answer = asked.spec.run_id
        key = f"submit {submits}" if key is None else key
    elif isinstance(asked, DrainRequested):
        key = f"{_DRAIN}{asked.at!r}"
    elif isinstance(asked, _OfRun):
        answer = asked.run_id
    return {
        "key": key,
        "submits": submits,
        "substance": _substance(asked),
        "answer": answer,
        "body": encode(asked),
        "fingerprint": wish.fingerprint,
    }


def _put(connection: Connection, wish: Wish, row: dict[str, Any]) -> RunId:
    if row["key"] is not None:
        query = select(inbox.c.answer, inbox.c.substance).where(inbox.c.key == row["key"])
        before = connection.execute(query).first()
        if before is not None:
            if before.substance == row["substance"]:
                return RunId(before.answer)
            raise _conflict(wish.key, row["submits"], before.answer)
    if row["submits"] is not None:
        query = select(inbox.c.answer).where(inbox.c.submits == row["submits"])
        if connection.execute(query).first() is not None:
            raise _conflict(None, row["submits"], row["submits"])
    connection.execute(insert(inbox).values(**row))
    return RunId(row["answer"])


def _checked(event: Event) -> _Asked:
    if not isinstance(event, _Asked):
        raise StoreError(
            f"{type(event).__name__} is not something that a person can ask for", code="E5009"
        )
    if isinstance(event, RunSubmitted):
        check_name(event.spec.run_id, "run")
        check_name(event.spec.project, "project")
    return event


def _substance(asked: _Asked) -> str:
    """SHA-256 of what is asked, without the time and the run id that are drawn anew each time.

    Of a submission that a plan has changed counts what was asked for: the next plan may differ.
    """
    plain = to_plain(asked)
    del plain["at"]
    if isinstance(asked, RunSubmitted):
        spec = asked.spec
        folder = spec.folder.replace(spec.run_id, "")
        bare = to_plain(replace(spec, run_id=RunId(""), folder=folder))
        plain["spec"] = {"asked": spec.asked} if spec.asked else bare
    text = json.dumps([type(asked).__name__, plain], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _conflict(key: str | None, submits: RunId | None, answer: str) -> ConflictError:
    what, why = f"run {submits} was already submitted", ["with something else in it"]
    if key is not None and answer != submits:
        what, why = f"the key {key!r} was already used", [f"for run {answer}"]
    return ConflictError(
        what,
        code="E5009",
        why=why,
        fix=("ask again with another key, or with exactly what was asked before",),
    )
