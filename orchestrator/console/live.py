"""What a person sees while runs train: bars on a terminal, plain lines everywhere else."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from orchestrator.console.board import board, reasons, run_of
from orchestrator.console.lines import LinesView, Waits, line_of
from orchestrator.console.read import main_metric
from orchestrator.console.say import is_lively, span_text
from orchestrator.messages import (
    CancelRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    NodeJoined,
    NodeLost,
    ProgressReported,
    RunSubmitted,
    StepReported,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Cause, PendingReason, RunId, RunState, RunStatus, Seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from orchestrator.store.sql import SqlStore

__all__ = ["Bar", "BarsView", "View", "observer", "reasons", "recorder", "run_of", "view_of"]

_MOST_BARS = 24  # a terminal's height; runs beyond it are told when they end


class View(AbstractContextManager["View"], Protocol):
    """Shows events as they happen; leaves the terminal as it was."""

    def observe(self, event: Event, statuses: Sequence[RunStatus]) -> None:
        """Show what happened."""
        ...

    def note(self, text: str) -> None:
        """Show a message between the events."""
        ...


def view_of(stream: TextIO | None = None) -> View:
    """Bars when the stream (stderr) is a terminal that allows them, else lines."""
    target = stream or sys.stderr
    return BarsView(target) if is_lively(target) else LinesView(target)


def observer(
    scheduler: Scheduler, *listeners: Callable[[Event, Sequence[RunStatus]], None]
) -> Callable[[Event], None]:
    """An observer for the driver that tells each listener what changed as well.

    After events that may change why runs wait, the statuses of all waiting runs come along, and
    of those that ended because another run did. Where many wait, they come along now and then.
    """
    waiting = _Waiting(scheduler)

    def observe(event: Event) -> None:
        statuses: tuple[RunStatus, ...] = ()
        run_id = None if event.is_volatile else run_of(event)
        if run_id is not None and scheduler.knows(run_id):
            statuses = (_known(scheduler, run_id),)
            waiting.note(statuses[0])
        may_change = not event.is_volatile and not isinstance(event, ProgressReported)
        others = waiting.look(event.at, may_change=may_change)
        statuses = (*statuses, *(other for other in others if other.run_id != run_id))
        for listen in listeners:
            listen(event, statuses)

    return observe


class _Waiting:
    """The runs that wait, looked at as a whole: at once where they are few, else not too often.

    A look at five thousand takes 50 ms, so that many are looked at every ten seconds.
    """

    _FEW = 200
    _A_SECOND = 500  # runs that are looked at in a second of the journal's time, at most

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._ids: dict[RunId, None] = {}
        self._is_new = self._is_wanted = True
        self._not_before: Seconds = float("-inf")

    def note(self, status: RunStatus) -> None:
        """A run's status after an event about it."""
        if status.state is RunState.PENDING:
            self._ids[status.run_id] = None

    def look(self, at: Seconds, *, may_change: bool) -> list[RunStatus]:
        """The statuses of all runs that wait, or just ended with another, if it is time."""
        self._is_wanted = self._is_wanted or may_change
        if not self._is_wanted or at < self._not_before or not self._scheduler.nodes():
            return []
        if self._is_new:
            self._ids.update((status.run_id, None) for status in self._scheduler.statuses())
        self._is_new = self._is_wanted = False
        known = filter(self._scheduler.knows, self._ids)
        every = [self._scheduler.status(run_id) for run_id in known]
        found = [
            s for s in every if s.state is RunState.PENDING or s.cause is Cause.DEPENDENCY_FAILED
        ]
        self._ids = {s.run_id: None for s in found if s.state is RunState.PENDING}
        num = len(self._ids)
        self._not_before = at + num / self._A_SECOND if num > self._FEW else at
        return found


def _known(scheduler: Scheduler, run_id: RunId) -> RunStatus:
    status = scheduler.status(run_id)
    if status.reason is not None and not scheduler.nodes():
        # Before the first node has joined, no card matches anything: that is no news.
        return replace(status, reason=PendingReason.NOT_EVALUATED)
    return status


def recorder(scheduler: Scheduler, store: "SqlStore", view: View) -> Callable[[Event], None]:
    """What a driver calls with every event: files, the book, reasons, and then what is shown."""
    from orchestrator.client.results import SeriesObserver
    from orchestrator.memory.book import BookObserver
    from orchestrator.store.folder import FolderObserver

    return observer(
        scheduler,
        FolderObserver(),
        BookObserver(store, view.note),
        reasons(store),
        board(scheduler, store),
        SeriesObserver(store),
        view.observe,
    )


@dataclass(slots=True)
class Bar:
    """What the bar of one run shows."""

    name: str
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    num_steps: int = 0
    rate: float = 0.0
    loss: float | None = None
    best: tuple[str, float] | None = None
    state: str = "waits"
    seconds: list[Seconds] = field(default_factory=list)

    @property
    def done(self) -> float:
        """Epochs completed, the one under way in part."""
        part = self.step / self.num_steps if self.num_steps and self.epoch < self.epochs else 0.0
        return self.epoch + min(part, 1.0)

    @property
    def left(self) -> Seconds | None:
        """Seconds to the end at the pace of the last epochs."""
        if not self.seconds or self.epochs <= self.epoch:
            return None
        recent = self.seconds[-5:]
        return (self.epochs - self.done) * sum(recent) / len(recent)

    def words(self) -> str:
        """The text behind the bar."""
        parts = [f"epoch {self.epoch}/{self.epochs}"]
        if self.state:
            parts.append(self.state)
        elif self.step:
            parts.append(f"step {self.step}/{self.num_steps}")
        if self.rate:
            parts.append(f"{self.rate:.0f} img/s")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3g}")
        if self.best:
            parts.append(f"best {self.best[0].removeprefix('metrics/')} {self.best[1]:.3f}")
        if not self.state and self.left is not None:
            parts.append(f"{span_text(self.left)} left")
        return "  ".join(parts)

    def take(self, event: Event) -> None:
        """Change by what happened."""
        match event:
            case StepReported(step=step):
                self.state, self.step, self.num_steps = "", step.step, step.num_steps
                self.epoch, self.epochs = step.epoch - 1, step.epochs
                self.rate, self.loss = step.images_per_second, step.loss
            case ProgressReported(progress=row, checkpoint=checkpoint):
                self.state, self.epoch, self.epochs, self.step = "", row.epoch, row.epochs, 0
                self.seconds.append(row.seconds)
                if self.best is None or (checkpoint is not None and checkpoint.is_best):
                    self.best = main_metric(row.metrics)
            case GangStarted():
                self.state = "starts"
            case GangYielded():
                self.state = "saved and left"
            case GangFinished(metrics=metrics):
                self.state, self.best = "finished", main_metric(metrics) or self.best
            case GangFailed(cause=cause):
                self.state = f"failed: {cause}"
            case _:
                pass


class BarsView:
    """One bar a run, in epochs, with the step, the pace, the loss, the best metric, the end."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=stream, highlight=False)
        self._bars: Bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}", markup=False),
            console=self._console,
        )
        self._tasks: dict[RunId, TaskID] = {}
        self._state: dict[RunId, Bar] = {}
        self._waits = Waits()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def observe(self, event: Event, statuses: Sequence[RunStatus]) -> None:
        """Show what happened."""
        for line in self._waits.lines(statuses):
            self.note(line)
        if isinstance(event, RunSubmitted):
            spec = event.spec
            name = f"{spec.project} {spec.part}" if spec.part else spec.project
            self._state[spec.run_id] = Bar(name=name, epochs=spec.settings.epochs)
            self._draw(spec.run_id)
            return
        if (attempt := getattr(event, "attempt", None)) is not None:
            bar = self._state.setdefault(attempt.run_id, Bar(name=attempt.run_id))
            bar.take(event)
            self._draw(attempt.run_id)
        if isinstance(event, GangFailed | NodeLost | NodeJoined | CancelRequested):
            self.note(line_of(event) or "")

    def note(self, text: str) -> None:
        """Show a message above the bars."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _draw(self, run_id: RunId) -> None:
        bar = self._state[run_id]
        if run_id not in self._tasks:
            if len(self._tasks) >= _MOST_BARS:
                return
            self._tasks[run_id] = self._bars.add_task(bar.name, total=None, words="")
        self._bars.update(
            self._tasks[run_id],
            completed=bar.done,
            total=bar.epochs or None,
            words=bar.words(),
        )
