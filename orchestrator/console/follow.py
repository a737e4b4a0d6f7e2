"""Runs that a driver elsewhere trains, shown as in the foreground until they have ended."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from threading import Event as Pause
from typing import TYPE_CHECKING

from orchestrator.client.access import Client
from orchestrator.console import live, report
from orchestrator.console.lines import Waits
from orchestrator.console.say import say
from orchestrator.messages import AttemptEvent, Event, ResumeRequested
from orchestrator.types import RunId, Seconds

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["DRIVER_LOST", "TIMED_OUT", "End", "follow_runs", "hand_over", "wait_for"]

DRIVER_LOST = 75  # the exit code: nobody trains the runs now, but they can go on (EX_TEMPFAIL)
TIMED_OUT = 124  # as `timeout` of coreutils
_POLL: Seconds = 0.5
_TOLD = 3  # runs named in a hint; more are found with `orc ls`
_EXPLAINED = 100  # runs of which it is told why they wait


class End(Enum):
    """How following ended."""

    ENDED = "every run has ended"
    DRIVER_LOST = "nobody drives the store any more"
    TIMED_OUT = "the time is over"


def hand_over(
    client: Client,
    submit: Callable[[], tuple[RunId, ...]],
    driver: str,
    *,
    as_json: bool,
    pause: Callable[[Seconds], object] | None = None,
) -> int:
    """Ask the driver that runs already, follow the runs to their end; returns the exit code.

    Ctrl-C ends the following only: the runs belong to the driver. `pause` as in `follow_runs`.
    """
    ids = submit()
    report.handed_over(ids, driver)
    return wait_for(client, ids, as_json=as_json, driver=driver, pause=pause)


def wait_for(
    client: Client,
    ids: Sequence[RunId],
    *,
    as_json: bool,
    driver: str | None = None,
    timeout: Seconds | None = None,
    patience: Seconds = 0.0,
    pause: Callable[[Seconds], object] | None = None,
) -> int:
    """Follow runs to their end; returns the exit code: of the runs, 75, 124, or 130.

    Args:
        client: Of the store.
        ids: The runs.
        as_json: How the end is told.
        driver: Who trains them, for messages.
        timeout: Leave after so many seconds; the runs go on.
        patience: As in `follow_runs`.
        pause: As in `follow_runs`.
    """
    who = f"({driver})" if driver else ""
    try:
        with client.store() as store, live.view_of() as view:
            end = follow_runs(store, ids, view, timeout=timeout, patience=patience, pause=pause)
    except KeyboardInterrupt:
        say(f"the runs go on with the driver {who}".rstrip())
        _hint("watch: orc logs -f", ids)
        _hint("stop: orc stop", ids)
        return 130
    wanted = set(ids)
    runs = [run for run in client.runs() if run.id in wanted]
    report.report(runs, as_json=as_json)
    if end is End.ENDED:
        return report.exit_code(runs)
    left = [RunId(run.id) for run in runs if not run.state.is_terminal]
    if end is End.TIMED_OUT:
        say(f"the time is over, and {len(left)} of {len(ids)} runs go on")
        _hint("wait on: orc wait", left)
        return TIMED_OUT
    say(f"the driver has ended, and {len(left)} of {len(ids)} runs have not {who}".rstrip())
    _hint("go on from the last checkpoint: orc resume", left)
    say("  or let a driver go on with all of them: orc serve")
    return DRIVER_LOST


def follow_runs(
    store: "SqlStore",
    ids: Collection[RunId],
    view: live.View,
    *,
    timeout: Seconds | None = None,
    patience: Seconds = 0.0,
    pause: Callable[[Seconds], object] | None = None,
) -> End:
    """Show what the journal says of runs from now on, until all of them have ended.

    Args:
        store: Where somebody drives them.
        ids: The runs.
        view: Where it is shown.
        timeout: Seconds after which to leave.
        patience: Seconds without a driver after which it counts as lost.
        pause: Waits between two looks; takes seconds.
    """
    wait = pause or Pause().wait
    until = None if timeout is None else time.monotonic() + timeout
    wanted, explained = frozenset(ids), list(ids)[:_EXPLAINED]
    news, waits = _News(store, wanted), Waits()
    alone: Seconds = 0.0
    while True:
        # In the opposite order of writing, so that an end is never seen before what led to it.
        is_driven = store.driver() is not None
        asked = store.waiting_for()
        num_left = store.num_unfinished(wanted)
        statuses = store.statuses_of(explained)
        events = list(news.read())
        for event in events:
            view.observe(event, ())
        for line in waits.lines(statuses):
            view.note(line)
        # A run that is to go on again keeps its old end until the driver has come to it.
        if not events and asked.isdisjoint(wanted) and not num_left:
            return End.ENDED
        alone = 0.0 if is_driven or events else alone + _POLL
        if alone > patience:
            return End.DRIVER_LOST
        if until is not None and time.monotonic() >= until:
            return End.TIMED_OUT
        wait(_POLL)


class _News:
    """Events of some runs in the order of recording, each told once.

    What a run did before is old; one that never started is told as a whole.
    """

    def __init__(self, store: "SqlStore", ids: frozenset[RunId]) -> None:
        self._store, self._ids = store, ids
        self._last = store.last_number()
        self._before = sorted(
            (entry for run_id in ids for entry in self._untold(run_id)), key=lambda entry: entry[0]
        )

    def read(self) -> Iterator[Event]:
        """What has come since the last reading."""
        yield from (event for _, event in self._before)
        self._before = []
        for number, event in self._store.events(since=self._last):
            self._last = number
            if live.run_of(event) in self._ids:
                yield event

    def _untold(self, run_id: RunId) -> Iterator[tuple[int, Event]]:
        entries = [entry for entry in self._store.events(run_id) if entry[0] <= self._last]
        old = [number for number, event in entries if not isinstance(event, ResumeRequested)]
        has_started = any(isinstance(event, AttemptEvent) for _, event in entries)
        since = old[-1] if has_started and old else 0
        return (entry for entry in entries if entry[0] > since)


def _hint(words: str, ids: Sequence[RunId]) -> None:
    for run_id in ids[:_TOLD]:
        say(f"  {words} {run_id}")
