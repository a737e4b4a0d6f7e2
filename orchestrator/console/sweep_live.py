"""What a person sees while a sweep goes on: a table on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from orchestrator.console.say import is_lively
from orchestrator.console.sweep_lines import (
    counts_text,
    left_text,
    metrics_text,
    short,
    trial_line,
)
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.standing import Scores, Standing, standing_of
from orchestrator.sweep.trials import SweepState, Trial, TrialState
from orchestrator.types import Seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["SweepLines", "SweepTable", "SweepView", "sweep_view", "watched"]

_ROWS = 16  # of a terminal's height; trials beyond it are counted
_A_SECOND = 4  # drawings


class SweepView(AbstractContextManager["SweepView"], Protocol):
    """Shows a sweep as it changes; leaves the terminal as it was."""

    def show(self, record: SweepRecord) -> None:
        """Show how it stands by now."""
        ...

    def note(self, text: str) -> None:
        """Show a message."""
        ...


def sweep_view(stream: TextIO | None = None) -> SweepView:
    """A table when the stream (stderr) is a terminal that allows it, else lines."""
    target = stream or sys.stderr
    return SweepTable(target) if is_lively(target) else SweepLines(target)


def watched(view: SweepView) -> Callable[[Conductor], None]:
    """What whoever conducts a sweep calls when something has happened."""
    begun = time.time()

    def watch(conductor: Conductor) -> None:
        view.show(
            SweepRecord(
                definition=conductor.definition,
                state=SweepState.RUNNING,
                at=begun,
                trials=tuple(conductor.study.trials.values()),
            )
        )

    return watch


class SweepLines:
    """A line when a trial begins or ends, and one when another is the best.

    Args:
        stream: Takes the lines.
        clock: Tells the Unix time.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], Seconds] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._told: dict[int, TrialState] = {}
        self._best: int | None = None
        self._scores = Scores()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, record: SweepRecord) -> None:
        """Say what is new."""
        has_ended = False
        for trial in record.trials:
            old = self._told.get(trial.number)
            if old is trial.state or trial.state is TrialState.SUGGESTED:
                continue
            self._told[trial.number] = trial.state
            is_refused = trial.state is TrialState.REFUSED
            has_ended = has_ended or (trial.state.has_ended and not is_refused)
            self.note(trial_line(record, trial))
        if not has_ended:
            return
        standing = standing_of(record, self._clock(), self._scores)
        if standing.best is not None and standing.best.number != self._best:
            self._best = standing.best.number
            self.note(
                f"best so far: trial {self._best} ({metrics_text(record, standing.metrics)});"
                f" {standing.ended} of {standing.trials} trials ended, {left_text(standing)}"
            )

    def note(self, text: str) -> None:
        """Say a message."""
        print(text, file=self._stream, flush=True)


class SweepTable:
    """A table of the trials that go on and of the best, drawn a few times a second.

    Args:
        stream: A terminal.
        clock: Tells the Unix time.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], Seconds] = time.time) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False)
        self._clock = clock
        self._record: SweepRecord | None = None
        self._scores = Scores()
        self._live = Live(
            console=self._console,
            refresh_per_second=_A_SECOND,
            get_renderable=self.picture,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, record: SweepRecord) -> None:
        """Keep it for the next drawing."""
        self._record = record

    def note(self, text: str) -> None:
        """Say a message above the table."""
        self._console.print(text, markup=False, soft_wrap=True)

    def picture(self) -> "RenderableType":
        """What is drawn by now."""
        from rich.console import Group
        from rich.text import Text

        record = self._record
        if record is None:
            return Text("")
        standing = standing_of(record, self._clock(), self._scores)
        definition = record.definition
        best = "no trial has a score yet"
        if standing.best is not None:
            told = metrics_text(record, standing.metrics)
            best = f"best: trial {standing.best.number} ({told})"
        head = f"{definition.name}: {definition.search} with {definition.scheduler}"
        return Group(
            Text(f"{head}, {left_text(standing)}"),
            Text(counts_text(standing)),
            Text(best, style="bold"),
            self._table(record, standing),
        )

    def _table(self, record: SweepRecord, standing: Standing) -> "RenderableType":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        definition = record.definition
        names = [name.removeprefix("metrics/") for name in definition.metrics]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("trial", "state", *definition.space, "epoch", *(f"best {n}" for n in names)):
            table.add_column(Text(name), overflow="ellipsis", no_wrap=True)
        shown = self._shown(record)
        for trial in shown:
            is_best = standing.best is not None and trial.number == standing.best.number
            values = [short(trial.values.get(key, "")) for key in definition.space]
            metrics = [f"{value:.4g}" for value in record.metrics(trial)]
            epoch = f"{trial.last.epoch}/{definition.epochs}" if trial.last else ""
            cells = (
                str(trial.number),
                trial.state.value.lower(),
                *values,
                epoch,
                *(metrics or [""] * len(names)),
            )
            table.add_row(*map(Text, cells), style="bold" if is_best else None)
        if len(shown) < len(record.started):
            table.caption = f"{len(record.started) - len(shown)} more trials: orc sweep show"
        return table

    def _shown(self, record: SweepRecord) -> list[Trial]:
        """Those that go on, then the best of the others."""
        started = record.started
        active = [trial for trial in started if not trial.state.has_ended][: _ROWS // 2]
        ended = [trial for trial in started if trial.state.has_ended]
        ended.sort(
            key=lambda t: ([-s for s in self._scores.of(record, t)] or [float("inf")], t.number)
        )
        return [*active, *ended[: _ROWS - len(active)]]
