"""`orc queue`: who goes first, per queue; and what people change of it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.client.access import Client, Run
from orchestrator.console.read import run_object
from orchestrator.console.say import columns, emit, emit_json, say
from orchestrator.errors import ConfigError

__all__ = ["change", "show_queue"]

_USES = (
    "orc queue [--queue NAME]",
    "orc queue move RUN --top, --bottom, or --before OTHER",
    "orc queue set RUN priority=80",
)


def show_queue(client: Client, *, only: str | None, as_json: bool) -> None:
    """Print runs that have not ended, in order; of one queue, or of all."""
    entries = [
        entry for entry in _entries(client.queue()) if only is None or entry["queue"] == only
    ]
    if as_json:
        emit_json(queue=entries)
    elif not entries:
        say(f"the queue {only} is empty" if only else "the queue is empty")
    else:
        emit(_table(entries, has_queues=len({entry["queue"] for entry in entries}) > 1))


def _entries(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run with its place among all, and among those of its queue, counted from 1."""
    seen: Counter[str] = Counter()
    entries = []
    for position, run in enumerate(runs, start=1):
        seen[run.queue] += 1
        places = {"position": position, "position_in_queue": seen[run.queue]}
        entries.append(places | run_object(run))
    return entries


def _table(entries: Sequence[dict[str, Any]], *, has_queues: bool) -> str:
    head = ["POS", "RUN", "PROJECT", "PRIORITY", "STATE", "EPOCH", "GPU", "REASON"]
    if has_queues:
        head[1:1] = ["QUEUE", "IN QUEUE"]
    body = []
    for entry in entries:
        row = [
            entry["position"],
            entry["id"],
            entry["project"],
            entry["priority"],
            entry["state"].value,
            f"{entry['epoch']}/{entry['epochs']}",
            entry["gpu"],
            entry["reason"] or "",
        ]
        if has_queues:
            row[1:1] = [entry["queue"], entry["position_in_queue"]]
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
