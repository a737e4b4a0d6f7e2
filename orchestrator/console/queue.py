"""`orc queue`: who goes first, per queue; and what people change of it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

from orchestrator.client.access import Client, Run
from orchestrator.client.records import made_at_once
from orchestrator.console.read import run_object
from orchestrator.console.say import columns, emit, emit_json, say
from orchestrator.errors import ConfigError

__all__ = ["change", "show_queue"]

_Entry: TypeAlias = tuple[int, int, Run]  # its place among all, and in its queue, from 1

_USES = (
    "orc queue [--queue NAME]",
    "orc queue move RUN --top, --bottom, or --before OTHER",
    "orc queue set RUN priority=80",
)


def show_queue(client: Client, *, only: str | None, as_json: bool) -> None:
    """Print runs that have not ended, in order; of one queue, or of all."""
    with made_at_once():
        entries = [entry for entry in _entries(client.queue()) if only in (None, entry[2].queue)]
        if as_json:
            emit_json(
                queue=[
                    {"position": at, "position_in_queue": inside, **run_object(run)}
                    for at, inside, run in entries
                ]
            )
        elif not entries:
            say(f"the queue {only} is empty" if only else "the queue is empty")
        else:
            emit(_table(entries, has_queues=len({run.queue for _, _, run in entries}) > 1))


def _entries(runs: Sequence[Run]) -> list[_Entry]:
    seen: Counter[str] = Counter()
    entries = []
    for position, run in enumerate(runs, start=1):
        seen[run.queue] += 1
        entries.append((position, seen[run.queue], run))
    return entries


def _table(entries: Sequence[_Entry], *, has_queues: bool) -> str:
    head = ["POS", "RUN", "PROJECT", "PRIORITY", "STATE", "EPOCH", "GPU", "REASON"]
    if has_queues:
        head[1:1] = ["QUEUE", "IN QUEUE"]
    body = []
    for position, inside, run in entries:
        row: list[object] = [
            position,
            run.id,
            run.name,
            run.priority,
            run.state.value,
            f"{run.epoch}/{run.epochs}",
            run.gpu,
            run.reason or "",
        ]
        if has_queues:
            row[1:1] = [run.queue, inside]
        body.append(row)
    return columns(head, body)


def change(
    client: Client, words: Sequence[str], places: Sequence[tuple[str, str]], *, as_json: bool
) -> None:
    """`orc queue set RUN priority=N` and `orc queue move RUN --top`.

    Args:
        client: Of the store.
        words: What stands after `orc queue`.
        places: The options that name a place, with their values: top, bottom, before.
        as_json: How it is told.

    Raises:
        ConfigError: E1030, not understood; E1033 and E1034, refused.
    """
    match = re.fullmatch(r"priority=(-?[0-9]{1,6})", words[2]) if len(words) == 3 else None
    if words[0] == "set" and match is not None and not places:
        run = client.prioritize(words[1], int(match[1]))
        told: dict[str, Any] = {"priority": int(match[1])}
        what = f"to have priority {match[1]} (it has {run.priority})"
    elif words[0] == "move" and len(words) == 2 and len(places) == 1:
        where, other = places[0]
        before = other if where == "before" else None
        run = client.move(words[1], before=before, to_end=where == "bottom")
        told = {"place": where, "before": before}
        what = {
            "top": f"to go first among priority {run.priority}",
            "bottom": f"to go last among priority {run.priority}",
            "before": f"to go before {other}",
        }[where]
    else:
        raise ConfigError(
            f"orc queue {' '.join(words)[:80]} is not understood", code="E1030", fix=_USES
        )
    driver = client.driver()
    if as_json:
        emit_json(run=run_object(run), asked=True, driver=driver, **told)
        return
    say(f"{run.id} was asked {what}")
    if driver is None:
        say("no driver runs now: it takes effect when one starts (orc serve)")
