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

__all__ = [
    "Wish",
    "answer_to",
    "ask",
    "forget_drains",
    "is_empty",
    "last_wish",
    "oldest",
    "stamped",
    "take",
    "waiting",
]

_OfRun: TypeAlias = CancelRequested | ResumeRequested | PriorityChanged | RunMoved
_OfAll: TypeAlias = QueueChanged | PolicyChanged | PlaceMended | DrainRequested
_Asked: TypeAlias = RunSubmitted | _OfRun | _OfAll
_DRAIN = "drain "  # how the key of a drain begins
_AT_ONCE = 50  # wishes in a transaction: askers wait for it
_CHUNK = 500  # values in one IN: every database takes as many
_ATTEMPTS = 3  # another asker may be first, once for each of a few keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Something to ask for. `fingerprint` tells equal submissions whatever their ids and plans."""

    event: Event
    key: str | None = None
    fingerprint: str | None = None


def ask(database: Database, wishes: Sequence[Wish]) -> tuple[RunId, ...]:
    """Put wishes into the inbox, all or none, each once per key; as `SqlStore.ask_all`."""
    made = [_row(wish) for wish in wishes]
    for attempt in range(_ATTEMPTS):
        try:
            with database.transaction(write=True) as connection:
                return _put(connection, wishes, made)
        except IntegrityError:  # another asker was first; the next look finds what it asked
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def answer_to(connection: Connection, key: str) -> RunId | None:
    """The run that this key was used for."""
    answer = connection.scalar(select(inbox.c.answer).where(inbox.c.key == key))
    return None if answer is None else RunId(answer)


def oldest(connection: Connection) -> list[tuple[int, Event]]:
    """The oldest wishes that wait, with their numbers, in the order of asking; fifty at most."""
    query = select(inbox.c.id, inbox.c.body).where(inbox.c.taken_seq.is_(None))
    found = connection.execute(query.order_by(inbox.c.id).limit(_AT_ONCE)).all()
    return [(row.id, decode(row.body)) for row in found]


def stamped(found: Sequence[tuple[int, Event]], at: Seconds) -> list[tuple[int, Event, str]]:
    """Wishes as they are taken at a time, with the text that records them."""
    events = [(wish, replace(event, at=at)) for wish, event in found]
    return [(wish, event, encode(event)) for wish, event in events]


def take(connection: Connection, made: Sequence[tuple[int, Event, str]]) -> tuple[Event, ...]:
    """Move wishes, made by `stamped`, into the journal."""
    numbers = rows.record_asked(connection, [(event, body) for _, event, body in made])
    marks = [{"wish": wish, "seq": seq} for (wish, *_), seq in zip(made, numbers, strict=True)]
    mark = update(inbox).where(inbox.c.id == bindparam("wish"))
    connection.execute(mark.values(taken_seq=bindparam("seq")), marks)
    return tuple(event for _, event, _ in made)


def waiting(connection: Connection) -> tuple[Event, ...]:
    """The wishes that no driver has taken yet, in the order of asking."""
    query = select(inbox.c.body).where(inbox.c.taken_seq.is_(None)).order_by(inbox.c.id)
    return tuple(decode(body) for body in connection.scalars(query))


def last_wish(connection: Connection, run_id: RunId) -> CancelRequested | ResumeRequested | None:
    """Whether a run shall stop or go on, as asked last; None where no wish waits to be taken."""
    about = (inbox.c.taken_seq.is_(None), inbox.c.answer == run_id)
    query = select(inbox.c.body).where(*about).order_by(inbox.c.id.desc())
    wishes = map(decode, connection.scalars(query))
    return next((w for w in wishes if isinstance(w, CancelRequested | ResumeRequested)), None)


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


def _put(
    connection: Connection, wishes: Sequence[Wish], made: Sequence[dict[str, Any]]
) -> tuple[RunId, ...]:
    """Write what is new, all at once; the answers in the order of the wishes."""
    keys = [row["key"] for row in made if row["key"] is not None]
    names = [row["submits"] for row in made if row["submits"] is not None]
    known = _known(connection, keys)
    submitted = _submitted(connection, names)
    answers, new = [], []
    for wish, row in zip(wishes, made, strict=True):
        key, submits = row["key"], row["submits"]
        if key in known:
            answer, substance = known[key]
            if substance != row["substance"]:
                raise _conflict(wish.key, submits, answer)
            answers.append(RunId(answer))
            continue
        if submits in submitted:
            raise _conflict(None, submits, submits)
        if key is not None:
            known[key] = row["answer"], row["substance"]
        if submits is not None:
            submitted.add(submits)
        new.append(row)
        answers.append(RunId(row["answer"]))
    if new:
        connection.execute(insert(inbox), new)
    return tuple(answers)


def _known(connection: Connection, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Answer and substance of the keys that were used."""
    found: dict[str, tuple[str, str]] = {}
    for at in range(0, len(keys), _CHUNK):
        query = select(inbox.c.key, inbox.c.answer, inbox.c.substance)
        rows_of = connection.execute(query.where(inbox.c.key.in_(keys[at : at + _CHUNK])))
        found.update((row.key, (row.answer, row.substance)) for row in rows_of)
    return found


def _submitted(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of some run ids that were submitted."""
    found: set[str] = set()
    for at in range(0, len(names), _CHUNK):
        part = names[at : at + _CHUNK]
        found.update(connection.scalars(select(inbox.c.submits).where(inbox.c.submits.in_(part))))
    return found


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
