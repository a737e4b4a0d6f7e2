"""The rows of settings that runs have tried, each with what it holds for; inside a transaction."""

import hashlib
import json
from collections.abc import Iterator

from sqlalchemy import Connection, delete, select

from orchestrator.errors import StoreError
from orchestrator.messages import ProgressReported
from orchestrator.store.codec import from_plain, to_plain
from orchestrator.store.database import Database
from orchestrator.store.schema import findings
from orchestrator.types import Finding

__all__ = ["forget", "known", "note"]


def note(database: Database, connection: Connection, event: ProgressReported) -> None:
    """Keep what an epoch that is being recorded tells of settings that were tried.

    The newest holds, but a trial that failed never replaces one that did not.
    """
    for finding in event.progress.findings:
        row = {
            "model": finding.model,
            "is_measured": int(finding.is_measured),
            "at": event.at,
            "attempt": str(event.attempt),
            "body": json.dumps(to_plain(finding), allow_nan=False, separators=(",", ":")),
        }
        statement = database.insert(findings).values(key=_key(finding), **row)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[findings.c.key],
                set_=row,
                where=findings.c.is_measured <= statement.excluded.is_measured,
            )
        )


def known(connection: Connection, model: str | None = None) -> tuple[Finding, ...]:
    """What can be read of them, of a model or of all, in the order of recording.

    A row that cannot be read, torn or of a version to come, is as good as none: the setting is
    tried again, and the answer takes its place.
    """
    return tuple(_read(connection, model))


def forget(connection: Connection, model: str) -> int:
    """Remove what is known of a model; returns of how many settings."""
    return connection.execute(delete(findings).where(findings.c.model == model)).rowcount


def _read(connection: Connection, model: str | None) -> Iterator[Finding]:
    query = select(findings.c.body, findings.c.key).order_by(findings.c.at, findings.c.key)
    if model is not None:
        query = query.where(findings.c.model == model)
    for row in connection.execute(query):
        try:
            finding = from_plain(Finding, json.loads(row.body))
        except (StoreError, ValueError, RecursionError):
            continue
        if _key(finding) == row.key:
            yield finding


def _key(finding: Finding) -> str:
    """A digest of what it holds for: paths in it may be longer than an index takes."""
    about = (finding.trainer, finding.card, finding.model, finding.kind, finding.name)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
