"""A store whose driver kills itself at a named point: before, in or after a commit, or later."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Engine, event

from orchestrator.messages import Event
from orchestrator.store.sql import SqlStore
from orchestrator.types import Finding, RunStatus, Seconds

__all__ = ["MOMENTS", "VARIABLE", "DoomedStore", "Point"]

VARIABLE = "ORC_DRILL_DIE_AT"
MOMENTS = ("before", "in", "after", "publish", "acted")


@dataclass(frozen=True, slots=True)
class Point:
    """Where a driver dies: at the first event of a kind, and when around it.

    `before` anything is written; `in` the transaction, its rows written and not committed; `after`
    the commit and before anything follows; in the transaction that tells people (`publish`);
    after the actions were carried out (`acted`).
    """

    kind: str
    moment: str

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Read `GangStarted:in`."""
        kind, _, moment = text.partition(":")
        if moment not in MOMENTS:
            raise ValueError(f"{text!r} names none of {', '.join(MOMENTS)}")
        return cls(kind, moment)

    def __str__(self) -> str:
        return f"{self.kind}:{self.moment}"


class DoomedStore:
    """The Store of a driver that ends with SIGKILL at a point; until then it is the one within."""

    def __init__(self, store: SqlStore, point: Point) -> None:
        self._store = store
        self._point = point
        self._is_met = False

    def append(self, event: Event) -> bool:
        """Record an event, or die of it."""
        self._look_back()
        with self._around(type(event).__name__ == self._point.kind):
            return self._store.append(event)

    def receive(self, at: Seconds) -> Sequence[Event]:
        """Move wishes to the journal, or die of one of them."""
        self._look_back()
        kinds = {type(wish).__name__ for wish in self._store.waiting()}
        with self._around(self._point.kind in kinds):
            return self._store.receive(at)

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        """Tell people, or die of it."""
        if self._is_met and self._point.moment == "publish":
            with _dying_with("runs"):
                self._store.publish(statuses)
        self._store.publish(statuses)

    def replay(self) -> Iterator[Event]:
        """Every recorded event."""
        return self._store.replay()

    def findings(self, model: str | None = None) -> Sequence[Finding]:
        """What is known of settings that were tried."""
        return self._store.findings(model)

    def _look_back(self) -> None:
        if self._is_met:  # what followed from the event has been done
            _die()

    @contextmanager
    def _around(self, is_of_kind: bool) -> Iterator[None]:  # noqa: FBT001 - private, one argument
        if not is_of_kind:
            yield
            return
        if self._point.moment == "before":
            _die()
        if self._point.moment == "in":
            with _dying_with("journal"):
                yield
        else:
            yield
        if self._point.moment == "after":
            _die()
        self._is_met = True


@contextmanager
def _dying_with(table: str) -> Iterator[None]:
    """Inside, the commit of a transaction that has written to the table is never reached."""
    wrote = False

    def note(_: object, __: object, statement: str, *___: Any) -> None:
        nonlocal wrote
        wrote = wrote or statement.startswith(f"INSERT INTO {table}")

    def end(_: object) -> None:
        if wrote:
            _die()

    event.listen(Engine, "before_cursor_execute", note)
    event.listen(Engine, "commit", end)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        event.remove(Engine, "commit", end)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be caught")
