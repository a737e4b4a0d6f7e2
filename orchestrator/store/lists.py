"""What lists and submissions read at once: a row a run with its epochs in short, nodes, askings."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, or_, select, update

from orchestrator.messages import (
    Event,
    NodeChanged,
    NodeJoined,
    NodeLost,
    NodeTypesOffered,
    ProgressReported,
    QueueChanged,
    RunSubmitted,
)
from orchestrator.store.codec import decode, from_plain, to_plain
from orchestrator.store.database import Database
from orchestrator.store.schema import (
    board,
    checkpoints,
    inbox,
    journal,
    latest,
    nodes,
    progress,
    runs,
)
from orchestrator.types import CheckpointRef, Node, NodeType, QueueRule, RunId, RunSpec

__all__ = [
    "Asking",
    "Listed",
    "askings",
    "board_of",
    "forget_nodes",
    "listing",
    "nodes_of",
    "note_event",
    "num_unfinished",
    "offer_of",
    "projects",
    "put_up",
    "rules",
    "waiting_for",
    "waiting_specs",
]

_RECENT = 10_000  # events: what was taken longer ago was published long ago
_CHUNK = 500  # values in one IN: every database takes as many


_OFFER = ""  # in place of a node's id: the types of nodes that may come


@dataclass(frozen=True, slots=True)
class Listed:
    """A run for lists: its status as plain values, and its epochs in short.

    `metrics` are the last epoch's, `best` those of the best, by name; a number that JSON cannot
    say is `{"$float": "nan"}`, as everywhere in the store.
    """

    status: dict[str, Any]
    epoch: int  # the last completed one, also when the status was published before it
    metrics: dict[str, Any]
    best_epoch: int | None
    best: dict[str, Any]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Asking:
    """A submission; `spec` is read only where its fingerprint was not kept."""

    run_id: RunId
    has_ended: bool
    spec: RunSpec | None = None


def note_event(database: Database, connection: Connection, event: Event) -> None:
    """Keep the rows of lists up to date with an event, in the transaction that records it."""
    match event:
        case ProgressReported():
            _note_epoch(database, connection, event)
        case NodeJoined(node=node):
            statement = database.insert(nodes).values(node_id=node.node_id, body=_text(node))
            given = {"body": statement.excluded.body}
            connection.execute(
                statement.on_conflict_do_update(index_elements=["node_id"], set_=given)
            )
        case NodeChanged(node=node):
            change = update(nodes).where(nodes.c.node_id == node.node_id)
            connection.execute(change.values(body=_text(node)))
        case NodeTypesOffered():
            statement = database.insert(nodes).values(node_id=_OFFER, body=_text(event))
            given = {"body": statement.excluded.body}
            connection.execute(
                statement.on_conflict_do_update(index_elements=["node_id"], set_=given)
            )
        case NodeLost(node_id=node_id):
            connection.execute(delete(nodes).where(nodes.c.node_id == node_id))
        case _:
            pass


def listing(
    connection: Connection,
    *,
    project: str | None = None,
    limit: int | None = None,
    is_unfinished: bool = False,
    run_id: str | None = None,
) -> list[Listed]:
    """Runs that a driver has taken, oldest submission first; the newest `limit` alone."""
    columns = (
        runs.c.body,
        latest.c.epoch,
        latest.c.metrics,
        latest.c.best_epoch,
        latest.c.best,
        latest.c.peak_bytes,
    )
    query = select(*columns).select_from(runs.outerjoin(latest))
    if project is not None:
        query = query.where(runs.c.project == project)
    if run_id is not None:
        query = query.where(runs.c.run_id == run_id)
    if is_unfinished:
        query = query.where(runs.c.is_terminal == 0)
    query = query.order_by(runs.c.submitted_at.desc(), runs.c.run_id.desc())
    if limit is not None:
        query = query.limit(limit)
    found = connection.execute(query).all()[::-1]
    bodies = json.loads(f"[{','.join(row[0] for row in found)}]")
    return [
        Listed(body, row[1] or 0, _loads(row[2]), row[3], _loads(row[4]), row[5] or 0)
        for body, row in zip(bodies, found, strict=True)
    ]


def waiting_specs(connection: Connection) -> list[dict[str, Any]]:
    """The plain specs of submissions without a row yet, in the order of asking.

    A driver has not taken them, or is just about to publish what it has taken.
    """
    newest = connection.scalar(select(func.max(journal.c.seq))) or 0
    is_new = inbox.c.taken_seq > newest - _RECENT
    has_row = select(runs.c.run_id).where(runs.c.run_id == inbox.c.submits).exists()
    is_without = inbox.c.taken_seq.is_(None) | (is_new & ~has_row)
    query = select(inbox.c.body).where(inbox.c.submits.is_not(None), is_without)
    found = connection.scalars(query.order_by(inbox.c.id)).all()
    return [record["body"]["spec"] for record in json.loads(f"[{','.join(found)}]")]


def waiting_for(connection: Connection) -> set[str]:
    """The runs about which something was asked that no driver has taken."""
    query = select(inbox.c.answer).where(inbox.c.taken_seq.is_(None))
    return set(connection.scalars(query))


def projects(connection: Connection) -> dict[RunId, str]:
    """The project of every run, those included that no driver has taken yet."""
    known = connection.execute(select(runs.c.run_id, runs.c.project)).all()
    asked = {RunId(spec["run_id"]): spec["project"] for spec in waiting_specs(connection)}
    return {RunId(row[0]): row[1] for row in known} | asked


def num_unfinished(connection: Connection, ids: Collection[RunId]) -> int:
    """How many of these runs have not ended."""
    ended, every = 0, list(ids)
    for at in range(0, len(every), _CHUNK):
        part = every[at : at + _CHUNK]
        query = select(func.count()).select_from(runs)
        query = query.where(runs.c.run_id.in_(part), runs.c.is_terminal == 1)
        ended += connection.scalar(query) or 0
    return len(every) - ended


def nodes_of(connection: Connection) -> tuple[Node, ...]:
    """The nodes of the driver that runs, or of the last one, as far as they were not lost."""
    query = select(nodes.c.body).where(nodes.c.node_id != _OFFER).order_by(nodes.c.node_id)
    return tuple(from_plain(Node, json.loads(body)) for body in connection.scalars(query))


def offer_of(connection: Connection) -> tuple[NodeType, ...]:
    """The node types that the driver that runs, or the last one, may ask for."""
    body = connection.scalar(select(nodes.c.body).where(nodes.c.node_id == _OFFER))
    return () if body is None else from_plain(NodeTypesOffered, json.loads(body)).node_types


def forget_nodes(connection: Connection) -> None:
    """A driver starts: it has no nodes yet, and has told nothing."""
    connection.execute(delete(nodes))
    connection.execute(delete(board))


def put_up(database: Database, connection: Connection, name: str, value: object) -> None:
    """Put what the driver tells of the whole in place of what it told before."""
    statement = database.insert(board).values(name=name, body=_text(value))
    given = {"body": statement.excluded.body}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=given))


def board_of(connection: Connection, name: str) -> Any:
    """What the driver last told under this name, as plain values; None where it told nothing."""
    body = connection.scalar(select(board.c.body).where(board.c.name == name))
    return None if body is None else json.loads(body)


def rules(connection: Connection) -> dict[str, QueueRule]:
    """The rule of every queue that has one, as it was last asked for."""
    query = select(inbox.c.body).where(inbox.c.submits.is_(None), inbox.c.answer == "")
    events = map(decode, connection.scalars(query.order_by(inbox.c.id)))
    return {event.rule.name: event.rule for event in events if isinstance(event, QueueChanged)}


def askings(connection: Connection, fingerprint: str) -> list[Asking]:
    """Submissions that may have this fingerprint, oldest first."""
    query = (
        select(inbox.c.answer, runs.c.is_terminal, inbox.c.fingerprint, inbox.c.body)
        .select_from(inbox.outerjoin(runs, runs.c.run_id == inbox.c.submits))
        .where(inbox.c.submits.is_not(None))
        .where(or_(inbox.c.fingerprint == fingerprint, inbox.c.fingerprint.is_(None)))
        .order_by(inbox.c.id)
    )
    return [
        Asking(RunId(row.answer), bool(row.is_terminal), None if row.fingerprint else _spec(row))
        for row in connection.execute(query)
    ]


def _spec(row: Any) -> RunSpec | None:
    event = decode(row.body)
    return event.spec if isinstance(event, RunSubmitted) else None


def _note_epoch(database: Database, connection: Connection, event: ProgressReported) -> None:
    run_id, row = event.attempt.run_id, event.progress
    known = connection.execute(select(latest).where(latest.c.run_id == run_id)).first()
    metrics = json.dumps(to_plain(row)["metrics"], allow_nan=False, separators=(",", ":"))
    best_epoch, best = (known.best_epoch, known.best) if known else (None, "{}")
    if event.checkpoint is not None and event.checkpoint.is_best:
        if best_epoch is None or row.epoch >= best_epoch:
            best_epoch, best = row.epoch, metrics
    elif best_epoch == row.epoch:  # a newer attempt repeats that epoch, and it is not the best now
        best_epoch, best = _best(connection, run_id)
    values = {
        "epoch": row.epoch,
        "metrics": metrics,
        "best_epoch": best_epoch,
        "best": best,
        "peak_bytes": max(row.peak_bytes, known.peak_bytes if known else 0),
    }
    if known and known.epoch > row.epoch:
        values |= {"epoch": known.epoch, "metrics": known.metrics}
    statement = database.insert(latest).values(run_id=run_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["run_id"], set_=values))


def _best(connection: Connection, run_id: str) -> tuple[int | None, str]:
    query = select(checkpoints.c.epoch, checkpoints.c.body).where(checkpoints.c.run_id == run_id)
    refs = [
        (n, from_plain(CheckpointRef, json.loads(body))) for n, body in connection.execute(query)
    ]
    epoch = max((n for n, ref in refs if ref.is_best), default=None)
    of_epoch = select(progress.c.body).where(progress.c.run_id == run_id, progress.c.epoch == epoch)
    body = None if epoch is None else connection.scalar(of_epoch)
    return epoch, "{}" if body is None else json.dumps(json.loads(body)["metrics"])


def _loads(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def _text(value: object) -> str:
    return json.dumps(to_plain(value), allow_nan=False, separators=(",", ":"))
