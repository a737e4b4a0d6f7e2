"""What is shown while a sweep goes on: lines in pipes, a table on terminals, the same facts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client.access import Client
from orchestrator.console.sweep_follow import follow_sweep, records_of
from orchestrator.console.sweep_live import SweepLines, SweepTable, sweep_view, watched
from orchestrator.sweep import asking
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.space import Values
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import SweepState
from tests.sweep.journal import Journal, define, searcher_of
from tests.sweep.stored import conduct_stored, config, make_record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def need(settings: Values) -> int:
    return 1 << 40 if settings["batch"] == 256 else 0


def test_a_terminal_gets_a_table_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "CI", "ORC_NO_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(sweep_view(Terminal()), SweepTable)
    assert isinstance(sweep_view(io.StringIO()), SweepLines)


def test_lines_tell_every_change_of_a_trial_once_and_each_new_best() -> None:
    stream = io.StringIO()
    definition = define(trials=6, scheduler="asha", max_concurrent=2)
    runs = StubRuns(need=need)
    conductor = Conductor(definition, searcher_of(definition), runs, Journal(), lambda: 1.0)
    with SweepLines(stream, lambda: 2.0) as view:
        watch = watched(view)
        while not conductor.is_done:
            conductor.advance()
            watch(conductor)
    lines = stream.getvalue().splitlines()
    trials = conductor.study.trials.values()
    for trial in trials:
        told = [line for line in lines if line.startswith(f"trial {trial.number:>3} ")]
        assert told[-1].split()[2] == trial.state.value.lower()
        assert len(told) == len(set(told))
    best = [line for line in lines if line.startswith("best so far")]
    scores = [float(line.split("(score ")[1].split(")")[0]) for line in best]
    assert scores == sorted(scores)
    assert "of 6 trials ended, ends in about" in best[0]


def test_the_table_shows_who_goes_on_the_best_and_the_counts() -> None:
    from rich.console import Console

    definition = define(trials=40, scheduler="asha", max_concurrent=3)
    conductor = Conductor(
        definition, searcher_of(definition), StubRuns(need=need), Journal(), lambda: 1.0
    )
    stream = Terminal()
    with SweepTable(stream, lambda: 2.0) as view:
        watch = watched(view)
        while len(conductor.study.trials) < 30:
            conductor.advance()
            watch(conductor)
        view.note("a message")
        console = Console(file=io.StringIO(), width=140)
        console.print(view.picture())
    file = console.file
    assert isinstance(file, io.StringIO)
    lines = file.getvalue().splitlines()
    record = SweepRecord(
        definition=definition,
        state=SweepState.RUNNING,
        at=0.0,
        trials=tuple(conductor.study.trials.values()),
    )
    assert record.best is not None
    assert "random with asha, ends in about" in lines[0]
    num_active = len(conductor.study.active)
    assert f"{len(record.started)} of 40 trials started, {num_active} running" in lines[1]
    assert f"({record.share_refused:.0%})" in lines[1]
    assert lines[2].startswith(f"best: trial {record.best.number} (score")
    assert sum(" active " in line for line in lines) == num_active > 0
    rows = [line.split()[0] for line in lines[3:] if " stopped " in line or " finished " in line]
    scores = [record.score(record.trials[int(number) - 1])[0] for number in rows]
    assert scores == sorted(scores, reverse=True)
    assert rows[0] == str(record.best.number)
    assert f"{len(record.started) - 16} more trials" in lines[-1]
    assert "a message" in stream.getvalue()


def test_a_table_without_a_trial_is_no_error() -> None:
    from rich.console import Console

    view = SweepTable(Terminal())
    console = Console(file=io.StringIO())
    console.print(view.picture())
    view.show(make_record(trials=1, metrics=("map",)))
    console.print(view.picture())
    assert isinstance(console.file, io.StringIO)
    assert "no trial has a score yet" in console.file.getvalue()


def test_a_sweep_is_followed_from_another_process_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, runs = Client(tmp_path), StubRuns(epochs=3)
    given: dict[str, Any] = {"name": "night", "trials": 9, "search": "random", "scheduler": "none"}
    asking.create(client, config(epochs=3), **given)

    def meanwhile(_: float) -> None:
        conduct_stored(client, "night", runs, most=3)

    seen = list(records_of(client, "night", pause=meanwhile))
    assert seen[-1].state is SweepState.FINISHED
    assert [len(record.trials) for record in seen] == sorted(len(r.trials) for r in seen)
    assert len(seen) > 2
    assert follow_sweep(client, "night", as_json=True) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["trial"], each["state"]) for each in objects] == [
        (number, "FINISHED") for number in range(1, 10)
    ]
    asking.create(client, config(epochs=3), **{**given, "name": "stopped"})
    asking.stop(client, "stopped")
    assert follow_sweep(client, "stopped", as_json=False) == 9
