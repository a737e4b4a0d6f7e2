"""`orc events`: the journal as lines, or as a JSON object a line, also as it grows."""

import json
from collections.abc import Callable
from threading import Event as Pause

from orchestrator.client.access import Client
from orchestrator.console.lines import line_of
from orchestrator.console.live import run_of
from orchestrator.console.say import emit, stamp_text
from orchestrator.messages import Event, TimePassed
from orchestrator.types import Seconds

__all__ = ["show_events"]

_POLL: Seconds = 0.5


def show_events(
    client: Client,
    run: str | None,
    *,
    since: int = 0,
    is_following: bool,
    as_json: bool,
    pause: Callable[[Seconds], object] | None = None,
) -> int:
    """Print what was recorded after number `since`.

    Args:
        client: Of the store.
        run: Only what concerns this run.
        since: A number that was printed before; 0 begins at the beginning.
        is_following: Go on with what comes, until the run has ended, or until Ctrl-C.
        as_json: A JSON object a line.
        pause: Waits between two looks; takes seconds.

    Returns:
        The exit code, 0.

    Raises:
        NotFoundError, ConfigError: As `Client.find`.
    """
    wait = pause or Pause().wait
    run_id = None if run is None else client.find(run)
    while True:
        has_ended = run_id is not None and client.run(run_id).state.is_terminal
        for number, event in client.events(run_id, since):
            since = number
            if (text := _object(number, event) if as_json else _line(number, event)) is not None:
                emit(text)
        if not is_following or has_ended:
            return 0
        wait(_POLL)


def _line(number: int, event: Event) -> str | None:
    if isinstance(event, TimePassed):
        return None  # nothing happened: the scheduler's alarm clock
    told = line_of(event) or " ".join(filter(None, (_about(event), type(event).__name__)))
    return f"{number} {stamp_text(event.at)} {told}"


def _about(event: Event) -> str:
    run_id = run_of(event)
    return "" if run_id is None else f"run={run_id}"


def _object(number: int, event: Event) -> str:
    from orchestrator.store.codec import to_plain

    record = {
        "schema_version": 1,
        "number": number,
        "kind": type(event).__name__,
        "run_id": run_of(event),
        **to_plain(event),
    }
    return json.dumps(record)
