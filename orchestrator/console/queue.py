"""`orc queue`: who goes first, per queue; and what people change of it."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from orchestrator.client.access import Client, Run
from orchestrator.client.records import made_at_once
from orchestrator.client.rules import set_rule, standing_of
from orchestrator.console.read import run_object
from orchestrator.console.say import columns, emit, emit_json, say
from orchestrator.errors import ConfigError
from orchestrator.schedule.standing import QueueStanding

__all__ = ["change", "show_queue"]

_Entry: TypeAlias = tuple[int, int, Run]  # its place among all, and in its queue, from 1

_USES = (
    "orc queue [--queue NAME]",
    "orc queue move RUN --top, --bottom, or --before OTHER",
    "orc queue set RUN priority=80",
    "orc queue set NAME weight=2 quota=4",
)
_RULE = ("weight", "quota", "gpus")  # what may be set of a queue; the last two are one


def show_queue(client: Client, *, only: str | None, as_json: bool) -> None:
    """Print runs that have not ended, in order; of one queue, or of all."""
    with made_at_once():
        entries = [entry for entry in _entries(client.queue()) if only in (None, entry[2].queue)]
        if as_json:
            emit_json(
                queues=[asdict(one) for one in standing_of(client).queues],
                queue=[
                    {"position": at, "position_in_queue": inside, **run_object(run)}
                    for at, inside, run in entries
                ],
            )
        elif not entries:
            say(f"the queue {only} is empty" if only else "the queue is empty")
        else:
            has_queues = len({run.queue for _, _, run in entries}) > 1
            emit(_table(entries, has_queues=has_queues))
            for one in standing_of(client).queues if has_queues else ():
                say(_rule_text(one))


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


def _rule_text(one: QueueStanding) -> str:
    quota = "no quota" if one.max_gpus is None else f"{one.max_gpus:g} card(s) at most"
    return f"queue {one.name}: weight {one.weight:g}, {quota}, holds {one.num_gpus:g}"


def change(
    client: Client, words: Sequence[str], places: Sequence[tuple[str, str]], *, as_json: bool
) -> None:
    """`orc queue set RUN priority=N`, `set NAME weight=W quota=Q`, `move RUN --top`.

    Args:
        client: Of the store.
        words: What stands after `orc queue`.
        places: The options that name a place, with their values: top, bottom, before.
        as_json: How it is told.

    Raises:
        ConfigError: E1030, not understood; E1033, E1034 and E1036, refused.
    """
    settings = dict(word.partition("=")[::2] for word in words[2:])
    if words and words[0] == "set" and settings and not places and settings.keys() <= {*_RULE}:
        _set_rule(client, words[1], settings, as_json=as_json)
        return
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


def _set_rule(client: Client, name: str, settings: dict[str, str], *, as_json: bool) -> None:
    rule = set_rule(client, name, settings, time.time())
    driver = client.driver()
    if as_json:
        emit_json(rule=asdict(rule), asked=True, driver=driver)
        return
    quota = "no quota" if rule.max_gpus is None else f"{rule.max_gpus:g} card(s) at a time at most"
    say(f"queue {name} was asked to have weight {rule.weight:g} and {quota}")
    if driver is None:
        say("no driver runs now: it takes effect when one starts (orc serve)")
