"""Runs that a driver elsewhere trains, shown as in the foreground until they have ended."""

from collections.abc import Callable, Collection, Sequence
from threading import Event as Pause
from typing import TYPE_CHECKING

from orchestrator.client.access import Client
from orchestrator.console import live, report
from orchestrator.console.lines import Waits
from orchestrator.console.say import say
from orchestrator.messages import AttemptEvent, Event, ResumeRequested
from orchestrator.types import RunId, RunStatus, Seconds

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["DRIVER_LOST", "follow_runs", "hand_over"]

DRIVER_LOST = 75  # the exit code: nobody trains the runs now, but they can go on (EX_TEMPFAIL)
_POLL: Seconds = 0.5
_TOLD = 3  # runs named in a hint; more are found with `orc ls`


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
    try:
        with client.store() as store, live.view_of() as view:
            has_ended = follow_runs(store, ids, view, pause=pause)
    except KeyboardInterrupt:
        say(f"the runs go on with the driver ({driver})")
        _hint("watch: orc logs -f", ids)
        _hint("stop: orc stop", ids)
        return 130
    runs = [client.run(run_id) for run_id in ids]
    report.report(runs, as_json=as_json)
    if has_ended:
        return report.exit_code(runs)
    left = [RunId(run.id) for run in runs if not run.state.is_terminal]
    say(f"the driver has ended, and {len(left)} of {len(ids)} runs have not ({driver})")
    _hint("go on from the last checkpoint: orc resume", left)
    say("  or the same orc train once more, without --hand-over")
    return DRIVER_LOST


def follow_runs(
    store: "SqlStore",
    ids: Collection[RunId],
    view: live.View,
    *,
    pause: Callable[[Seconds], object] | None = None,
) -> bool:
    """Show what the journal says of runs from now on, until all of them have ended.

    Args:
        store: Where somebody drives them.
        ids: The runs.
        view: Where it is shown.
        pause: Waits between two looks; takes seconds.

    Returns:
        False when some have not ended and nobody drives the store any more.
    """
    wait = pause or Pause().wait
    seen = {run_id: _last_number(store, run_id) for run_id in ids}
    waits = Waits()
    while True:
        # In the opposite order of writing, so that an end is never seen before what led to it.
        is_driven = store.driver() is not None
        asked = {live.run_of(event) for event in store.waiting()}
        statuses = [status for status in store.statuses() if status.run_id in seen]
        news = _news(store, seen)
        for event in news:
            view.observe(event, ())
        for line in waits.lines(statuses):
            view.note(line)
        # A run that is to go on again keeps its old end until the driver has come to it.
        if not news and asked.isdisjoint(seen) and _have_ended(statuses, seen):
            return True
        if not is_driven and not news:
            return False
        wait(_POLL)


def _have_ended(statuses: Sequence[RunStatus], ids: Collection[RunId]) -> bool:
    return len(statuses) == len(ids) and all(status.state.is_terminal for status in statuses)


def _news(store: "SqlStore", seen: dict[RunId, int]) -> list[Event]:
    """Events after the last numbers seen, in the order of recording; the numbers move on."""
    found = [
        (number, event, run_id)
        for run_id, since in seen.items()
        for number, event in store.events(run_id, since)
    ]
    found.sort(key=lambda entry: entry[0])
    seen.update((run_id, number) for number, _, run_id in found)
    return [event for _, event, _ in found]


def _last_number(store: "SqlStore", run_id: RunId) -> int:
    """The number to read on from: a run that never started is told as a whole."""
    entries = [(n, e) for n, e in store.events(run_id) if not isinstance(e, ResumeRequested)]
    has_started = any(isinstance(event, AttemptEvent) for _, event in entries)
    return entries[-1][0] if has_started else 0


def _hint(words: str, ids: Sequence[RunId]) -> None:
    for run_id in ids[:_TOLD]:
        say(f"  {words} {run_id}")
