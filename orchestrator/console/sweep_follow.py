"""`orc sweep show NAME --follow`: a sweep that somebody conducts, shown until it ends."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event as Pause

from orchestrator.client.access import Client
from orchestrator.console.say import SCHEMA_VERSION, emit, say
from orchestrator.console.sweep_lines import trial_object
from orchestrator.console.sweep_live import SweepView, sweep_view
from orchestrator.sweep.fold import Study
from orchestrator.sweep.records import SweepRecord, read_events, read_sweep
from orchestrator.sweep.trials import SweepState, TrialState
from orchestrator.types import Seconds

__all__ = ["follow_sweep", "records_of"]

_POLL: Seconds = 0.5


def follow_sweep(
    client: Client,
    name: str,
    *,
    as_json: bool,
    pause: Callable[[Seconds], object] | None = None,
) -> int:
    """Show a sweep until it is finished or stopped.

    Args:
        client: Of the store.
        name: The sweep.
        as_json: A JSON object for each state of a trial, a line each, instead of a table.
        pause: Waits between two looks; takes seconds.

    Returns:
        The exit code: 0 when it is finished, 9 when it was stopped, 130 on Ctrl-C, which leaves it.

    Raises:
        NotFoundError: E5031, there is no such sweep.
    """
    state = SweepState.RUNNING
    try:
        with _Objects() if as_json else sweep_view() as view:
            for record in records_of(client, name, pause=pause):
                view.show(record)
                state = record.state
    except KeyboardInterrupt:
        say(f"{name} goes on; end it: orc sweep stop {name}")
        return 130
    return 9 if state is SweepState.STOPPED else 0


def records_of(
    client: Client, name: str, *, pause: Callable[[Seconds], object] | None = None
) -> Iterator[SweepRecord]:
    """A sweep as it stands, again whenever something has happened; the last is of its end.

    Raises:
        NotFoundError: E5031, there is no such sweep.
    """
    wait = pause or Pause().wait
    first = read_sweep(client, name)
    study, since = Study(), 0
    with client.store() as store:
        while True:
            row = store.sweeps.find(name)  # before its events: an end is not seen before them
            state = SweepState(row.state) if row else SweepState.STOPPED
            news = list(read_events(store, name, since))
            for number, event in news:
                since = number
                study.apply(event)
            if news or state is not SweepState.RUNNING:
                trials = tuple(study.trials.values())
                yield replace(first, state=state, trials=trials)
            if state is not SweepState.RUNNING:
                return
            wait(_POLL)


class _Objects:
    """Implements SweepView with a JSON object a line, for programs."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[TrialState, int]] = {}

    def __enter__(self) -> "SweepView":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, record: SweepRecord) -> None:
        for trial in record.trials:
            now = trial.state, len(trial.epochs)
            if self._told.get(trial.number) != now:
                self._told[trial.number] = now
                emit(json.dumps({"schema_version": SCHEMA_VERSION, **trial_object(record, trial)}))

    def note(self, text: str) -> None:
        say(text)
