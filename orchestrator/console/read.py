"""The reading commands: what `ls show logs explain stop` print, for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from threading import Event as Pause
from typing import Any

from orchestrator.client.access import Client, Run, RunRecord
from orchestrator.client.records import made_at_once
from orchestrator.client.storage import results_of
from orchestrator.console.say import (
    clock_text,
    columns,
    emit,
    emit_json,
    say,
    size_text,
    span_text,
)
from orchestrator.selectors import selector_text
from orchestrator.types import Explanation, PendingReason

__all__ = [
    "explain",
    "follow",
    "list_runs",
    "main_metric",
    "metric_text",
    "run_object",
    "show",
    "show_logs",
    "stop",
]

# The one number to show of a run, the first that it has: YOLO tasks, then classifiers, then loss.
_METRICS = (
    "metrics/mAP50-95(B)",
    "metrics/mAP50-95(M)",
    "metrics/mAP50-95(P)",
    "metrics/accuracy_top1",
    "val/loss",
    "train/loss",
)
_FIELDS = tuple(field.name for field in fields(Run))
_TAIL = 10  # epochs that `orc show` prints
_POLL = 0.5  # seconds between looks at a log that grows


def main_metric(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The metric to show first, with its value; None when there are none."""
    for name in _METRICS:
        if name in metrics:
            return name, metrics[name]
    return next(iter(metrics.items()), None)


def metric_text(metrics: Mapping[str, float]) -> str:
    """`mAP50-95(B) 0.412`, or nothing."""
    found = main_metric(metrics)
    return f"{found[0].removeprefix('metrics/')} {found[1]:.4g}" if found else ""


def run_object(run: Run) -> dict[str, Any]:
    """A run as `--json` tells it."""
    return {name: getattr(run, name) for name in _FIELDS}


def list_runs(client: Client, *, as_json: bool, project: str | None, limit: int | None) -> None:
    """`orc ls`."""
    with made_at_once():
        runs = client.runs(project, limit)
        if as_json:
            emit_json(runs=[run_object(run) for run in runs])
        elif not runs:
            say(f"no runs in {client.home}; start one: orc train CONFIG")
        else:
            emit(_table(runs))


def _table(runs: Sequence[Run]) -> str:
    head = ("RUN", "PROJECT", "STATE", "EPOCH", "TRY", "BEST", "GPU", "REASON")
    return columns(
        head,
        (
            (
                run.id,
                run.name,
                run.state.value,
                f"{run.epoch}/{run.epochs}",
                run.attempts,
                metric_text(run.best),
                run.gpu,
                run.reason or run.cause or "",
            )
            for run in runs
        ),
    )


def show(record: RunRecord, *, as_json: bool) -> None:
    """`orc show RUN`."""
    run = record.run
    if as_json:
        emit_json(
            **run_object(run),
            settings=asdict(record.spec.settings),
            progress=[asdict(row) for row in record.progress],
            checkpoints=[asdict(ref) for ref in record.checkpoints],
        )
        return
    settings = record.spec.settings
    batch = f"{record.spec.effective_batch}"
    if run.micro_batch and run.micro_batch != run.effective_batch:
        batch += f" (in pieces of {run.micro_batch})"
    rows = [
        ("run", run.id),
        ("project", run.name),
        ("state", " ".join(filter(None, (run.state.value, run.reason or run.cause)))),
        ("detail", run.detail.splitlines()[0] if run.detail else ""),
        ("model", f"{settings.model}, {settings.imgsz} px, batch {batch}"),
        ("data", settings.data),
        ("weights", f"the best of {record.spec.weights_from}" if record.spec.weights_from else ""),
        ("after", ", ".join(record.spec.after)),
        ("labels", selector_text(tuple(record.spec.labels.items()))),
        ("epoch", f"{run.epoch}/{run.epochs}, attempt {run.attempts}"),
        ("best", f"{metric_text(run.best)} (epoch {run.best_epoch})" if run.best else ""),
        ("gpu", run.gpu),
        ("peak", size_text(run.peak_bytes) if run.peak_bytes else ""),
        *(("measured", text) for text in (record.progress[-1].choices if record.progress else ())),
        ("folder", record.spec.address or run.folder),
        ("results", results_of(record.spec, run.attempts)),
    ]
    emit("\n".join(f"{name:<8} {value}" for name, value in rows if value))
    if record.progress:
        emit("")
        emit(_epochs(record))


def _epochs(record: RunRecord) -> str:
    rows = record.progress[-_TAIL:]
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))[:6]
    head = ("EPOCH", "TIME", "IMAGES/S", "PEAK", *(n.removeprefix("metrics/") for n in names))
    body = [
        (
            row.epoch,
            span_text(row.seconds),
            f"{row.num_images / row.seconds:.1f}" if row.seconds > 0 else "",
            size_text(row.peak_bytes) if row.peak_bytes else "",
            *(f"{row.metrics[n]:.4g}" if n in row.metrics else "" for n in names),
        )
        for row in rows
    ]
    return columns(head, body)


def explain(explanation: Explanation, *, as_json: bool) -> int:
    """`orc explain RUN`; 5 when waiting can never help, because no card fits."""
    is_hopeless = explanation.reason in (
        PendingReason.NO_MATCHING_GPU,
        PendingReason.NO_MATCHING_LABELS,
        PendingReason.EXCEEDS_CLUSTER,
    )
    if as_json:
        emit_json(**asdict(explanation))
    else:
        _print_explanation(explanation)
    return 5 if is_hopeless else 0


def _print_explanation(explanation: Explanation) -> None:
    reason = explanation.reason
    held = "after" if reason is PendingReason.WAITING_FOR_RUNS else "held by"
    note = "" if reason is None or reason.needs_person else "  (not an error)"
    emit(explanation.summary)
    for word, lines in (
        ("reason", (f"{reason.value}{note}",) if reason else ()),
        ("asks", (explanation.asks,)),
        ("cluster", explanation.available),
        (held, explanation.blockers),
        ("you can", explanation.remedies),
    ):
        shown = [line for line in lines if line]
        for number, line in enumerate(shown):
            emit(f"  {word if number == 0 else '':<8} {line}")


def stop(client: Client, run_id: str, *, now: bool, as_json: bool) -> None:
    """`orc stop RUN [--now]`."""
    run = client.stop(run_id, now=now)
    driver = client.driver()
    if as_json:
        emit_json(run=run_object(run), asked=not run.state.is_terminal, driver=driver)
    elif run.state.is_terminal:
        say(f"{run.id} has already ended: {run.state.value}")
    else:
        when = "at once" if now else "after its epoch, when that is saved"
        say(f"{run.id} was asked to stop {when}; to go on later: orc resume {run.id}")
        if driver is None:
            say("no driver runs now: it takes effect when one starts (orc serve, orc resume)")


def show_logs(client: Client, run_id: str, *, is_following: bool) -> None:
    """`orc logs RUN [-f]`."""
    paths = client.logs(run_id)
    if not paths and not is_following:
        record = client.show(run_id)
        say(f"no log yet in {record.spec.address or record.run.folder}")
    if is_following:
        follow(client, run_id)
        return
    for path in paths:
        emit(path.read_text("utf-8", errors="replace").rstrip("\n"))


def follow(client: Client, run_id: str) -> None:
    """Print what a run's logs say as they grow, until the run has ended."""
    seen: dict[Path, int] = {}
    pause = Pause()
    while True:
        has_ended = client.run(run_id).state.is_terminal
        for path in client.logs(run_id):
            with path.open("rb") as file:
                file.seek(seen.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1] if not has_ended else data
            seen[path] = seen.get(path, 0) + len(whole)
            if whole:
                emit(whole.decode("utf-8", errors="replace").rstrip("\n"))
        if has_ended:
            say(f"the run has ended at {clock_text(client.run(run_id).ended_at or 0.0)}")
            return
        pause.wait(_POLL)
