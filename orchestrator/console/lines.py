"""Plain lines about what happens: `12:04:11 INFO  run=... epoch 3/50 ...`."""

from collections.abc import Mapping, Sequence
from typing import Self, TextIO

from orchestrator.console.gpus import card_name
from orchestrator.console.read import main_metric, metric_text
from orchestrator.console.say import clock_text, size_text
from orchestrator.messages import (
    CancelRequested,
    DrainEnded,
    DrainRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    MicroBatchChanged,
    NodeChanged,
    NodeJoined,
    NodeLost,
    PaceMeasured,
    PriorityChanged,
    ProgressReported,
    Recut,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
    StepReported,
)
from orchestrator.types import Card, Cause, RunId, RunState, RunStatus, Seconds

__all__ = ["LinesView", "Waits", "line_of"]

_STEP_LINES: Seconds = 30.0  # between two signs of life of one run, in plain lines


def line_of(event: Event) -> str | None:
    """The line that tells an event; None for those that are not worth one."""
    return _place_line(event) or _wish_line(event) or _attempt_line(event)


def _place_line(event: Event) -> str | None:
    match event:
        case NodeJoined(node=node):
            cards = ", ".join(_card_text(card) for card in node.cards) or "no GPU"
            return f"node={node.node_id} joined: {cards}; {node.num_cpus:g} CPUs"
        case NodeChanged(node=node) if node.shortage:
            return f"node={node.node_id} takes nothing new: {node.shortage}"
        case NodeChanged(node=node):
            held = ", ".join(size_text(card.foreign_bytes) for card in node.cards)
            return f"node={node.node_id} changed: other processes hold {held or 'nothing'}"
        case NodeLost(node_id=node_id):
            return f"node={node_id} lost"
        case DrainRequested(now=now):
            return (
                f"the driver is asked to leave {'at once' if now else 'when its gangs have saved'}"
            )
        case _:
            is_over = isinstance(event, DrainEnded)
            return "another driver has come: gangs may start again" if is_over else None


def _wish_line(event: Event) -> str | None:
    match event:
        case RunSubmitted(spec=spec):
            part = f" {spec.part}" if spec.part else ""
            return f"run={spec.run_id} submitted (project {spec.project}{part})"
        case CancelRequested(run_id=run_id, now=now):
            return f"run={run_id} asked to stop {'now' if now else 'after its epoch'}"
        case ResumeRequested(run_id=run_id):
            return f"run={run_id} asked to go on"
        case PriorityChanged(run_id=run_id, priority=priority):
            return f"run={run_id} asked to have priority {priority}"
        case RunMoved(run_id=run_id, before=before, to_end=to_end):
            place = f"before {before}" if before else "last" if to_end else "first"
            return f"run={run_id} asked to go {place}"
        case _:
            return None


def _attempt_line(event: Event) -> str | None:
    match event:
        case GangStarted(attempt=attempt) | GangYielded(attempt=attempt):
            what = "started" if isinstance(event, GangStarted) else "saved and left"
            return f"run={attempt.run_id} attempt {attempt.number} {what}"
        case ProgressReported(attempt=attempt):
            return f"run={attempt.run_id} {_epoch_text(event)}"
        case MicroBatchChanged(attempt=attempt) | PaceMeasured(attempt=attempt):
            return f"run={attempt.run_id} {_midway_text(event)}"
        case GangFinished(attempt=attempt, metrics=metrics):
            best = metric_text(metrics)
            return f"run={attempt.run_id} finished{f', best {best}' if best else ''}"
        case GangFailed(attempt=attempt, cause=cause, detail=detail, code=code):
            told = (detail.splitlines() or [""])[0]
            mark = f" [{code}]" if code else ""
            return f"run={attempt.run_id} attempt {attempt.number} failed: {cause}{mark} {told}"
        case _:
            return None


def _midway_text(event: MicroBatchChanged | PaceMeasured) -> str:
    if isinstance(event, PaceMeasured):
        return f"epoch {event.pace.epoch} takes about {event.pace.seconds:.0f} s"
    change = event.recut
    told = f"{_change_text(change)}, the same effective batch ({change.why})"
    return f"epoch {change.epoch}: {told}"


def _change_text(change: Recut) -> str:
    given = change.given_up
    if given is not None:
        when = "" if given.is_live else " from the next attempt on"
        return f"gives up {given.rung} ({given.setting}){when}"
    what = "validation batch" if change.in_validation else "micro-batch"
    return f"{what} {change.old} -> {change.new}"


def _card_text(card: Card) -> str:
    return f"{card_name(card)} {size_text(card.memory_bytes)}"


def _epoch_text(event: ProgressReported) -> str:
    row = event.progress
    parts = [f"epoch {row.epoch}/{row.epochs}"]
    parts += [
        f"{name.removeprefix('metrics/')}={row.metrics[name]:.4g}" for name in _told(row.metrics)
    ]
    if row.seconds > 0:
        parts.append(f"{row.num_images / row.seconds:.1f} images/s")
    if row.peak_bytes:
        parts.append(f"peak {size_text(row.peak_bytes)}")
    return " ".join(parts)


def _told(metrics: Mapping[str, float]) -> list[str]:
    main = main_metric(metrics)
    return [n for n in ("train/loss", "val/loss", main[0] if main else "") if n in metrics][:3]


def _level(event: Event) -> str:
    """How alarming an event is: what the scheduler mends by itself is a warning."""
    if isinstance(event, MicroBatchChanged):
        is_less = event.recut.new < event.recut.old or event.recut.given_up is not None
        return "WARN " if is_less else "INFO "
    if isinstance(event, NodeLost):
        return "WARN "
    if not isinstance(event, GangFailed) or event.cause is Cause.KILLED:
        return "INFO "
    return "WARN " if event.cause.is_infrastructure else "ERROR"


class Waits:
    """Tells why a run waits, once a reason."""

    def __init__(self) -> None:
        self._told: dict[RunId, str] = {}

    def lines(self, statuses: Sequence[RunStatus]) -> list[str]:
        """The lines that are news; a reason that was never looked at is none."""
        lines = []
        for status in statuses:
            reason = status.reason
            is_waiting = status.state is RunState.PENDING and reason is not None
            told = f"{reason}" if is_waiting else ""
            if status.state is RunState.FAILED and status.cause is Cause.DEPENDENCY_FAILED:
                told = "ended"
            if told == "ended" != self._told.get(status.run_id):
                lines.append(f"run={status.run_id} ended: {status.detail}")
            elif told != self._told.get(status.run_id, "") and told not in ("", "NOT_EVALUATED"):
                lines.append(f"run={status.run_id} waits: {told} {status.detail}".rstrip())
            if told:
                self._told[status.run_id] = told
            else:
                self._told.pop(status.run_id, None)
        return lines


class LinesView:
    """`12:04:11 INFO  run=... epoch 3/50 ...`: for pipes, files, CI and NO_COLOR."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told_at: dict[RunId, Seconds] = {}
        self._waits = Waits()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def observe(self, event: Event, statuses: Sequence[RunStatus]) -> None:
        """Show what happened; signs of life at most every 30 seconds."""
        if isinstance(event, StepReported):
            self._step(event)
            return
        if isinstance(event, ProgressReported):
            self._told_at[event.attempt.run_id] = event.at
        if (line := line_of(event)) is not None:
            self._print(event.at, _level(event), line)
        for line in self._waits.lines(statuses):
            self._print(event.at, "INFO ", line)
        for status in statuses:
            if status.state.is_terminal:
                self._told_at.pop(status.run_id, None)

    def note(self, text: str) -> None:
        """Show a message between the events."""
        print(text, file=self._stream, flush=True)

    def _step(self, event: StepReported) -> None:
        run_id, step = event.attempt.run_id, event.step
        told = self._told_at.setdefault(run_id, event.at)
        if event.at - told >= _STEP_LINES:
            self._told_at[run_id] = event.at
            self._print(
                event.at,
                "INFO ",
                f"run={run_id} epoch {step.epoch}/{step.epochs} step {step.step}/{step.num_steps}"
                f" {step.images_per_second:.1f} images/s",
            )

    def _print(self, at: Seconds, level: str, line: str) -> None:
        print(f"{clock_text(at)} {level} {line}", file=self._stream, flush=True)
