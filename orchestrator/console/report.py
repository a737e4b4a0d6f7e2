"""What is said at the end of a training: a row a run, what to try next, the exit code."""

from collections.abc import Mapping, Sequence

from orchestrator.client.access import Run
from orchestrator.client.prepare import Order
from orchestrator.client.results import series_of
from orchestrator.console.read import metric_text, run_object
from orchestrator.console.say import columns, emit, emit_json, say, size_text, span_text
from orchestrator.console.series import series_lines
from orchestrator.types import Cause, DeviceKind, RunId, RunSpec, RunState

__all__ = ["continued", "exit_code", "fitted", "handed_over", "prepared", "report", "submitted"]

_NEXT = {
    Cause.OUT_OF_MEMORY: "a larger card, or a smaller imgsz",
    Cause.DATA_ERROR: "correct the data set",
    Cause.NAN_LOSS: "a smaller lr0, or amp=fp32",
    Cause.DEPENDENCY_FAILED: "orc resume the run that it comes after, then this one",
    Cause.DISK_FULL: "free disk space, then orc resume",
    Cause.STORAGE_FAULT: "see that nodes reach the store of the runs, then orc resume",
    Cause.HANG: "its stacks in the attempt's folder tell where it stands",
}


def exit_code(runs: Sequence[Run]) -> int:
    """0 all succeeded, 1 none did, 7 some failed, 9 some were stopped and none failed."""
    states = [run.state for run in runs]
    num_failed = states.count(RunState.FAILED)
    if num_failed:
        return 1 if num_failed == len(states) else 7
    return 0 if all(state is RunState.SUCCEEDED for state in states) else 9


def report(runs: Sequence[Run], *, as_json: bool) -> None:
    """Print the end of every run on stdout."""
    if as_json:
        emit_json(runs=[run_object(run) for run in runs])
        return
    head = ("PROJECT", "STATE", "EPOCHS", "BEST", "TRIES", "PEAK", "TIME", "GPU", "FOLDER")
    emit(columns(head, (_row(run) for run in runs)))
    for project in dict.fromkeys(run.project for run in runs if run.part):
        for series in series_of([run for run in runs if run.project == project]):
            emit("\n".join(["", f"{project}, best epochs", *series_lines(series)]))
    for run in runs:
        for line in _advice(run):
            emit(line)
    if runs and all(run.state is RunState.SUCCEEDED for run in runs):
        for line in _what_next(runs):
            emit(line)


def prepared(orders: Sequence[Order]) -> None:
    """Say what is about to be submitted: what goes on, and how each run is made to fit."""
    continued(orders)
    fitted(orders)


def continued(orders: Sequence[Order]) -> None:
    """Say which projects are under way already and go on."""
    for order in orders:
        if order.continues and not order.has_ended:
            part = f" {order.spec.part}" if order.spec.part else ""
            say(f"{order.spec.project}{part}: goes on with the unfinished run {order.continues}")


def fitted(orders: Sequence[Order]) -> None:
    """Say how each run is made to fit, or that nobody knows."""
    told: set[str] = set()  # all folds are told at once
    for order in orders:
        spec, is_new = order.spec, order.continues is None
        for remark in order.remarks:
            say(f"{spec.project}: {remark}")
        if order.fitted is not None and order.fitted.said:
            if order.fitted.said not in told:
                say(order.fitted.said)
            told.add(order.fitted.said)
        elif is_new and order.fitted is None and spec.trainer != "fake" and _is_whole(spec):
            say(f"{spec.project}: its memory was not predicted, so it takes a whole card")


def _is_whole(spec: RunSpec) -> bool:
    return spec.device is DeviceKind.GPU and spec.memory_bytes is None


def handed_over(ids: Sequence[RunId], driver: str) -> int:
    """Say that the runs wait for a driver that runs already; returns the exit code."""
    say(f"queued with the driver that runs already ({driver})")
    for run_id in ids:
        say(f"  {run_id}   watch: orc logs -f {run_id}")
    return 0


def submitted(
    ids: Sequence[RunId],
    orders: Sequence[Order],
    driver: str | None,
    *,
    as_json: bool,
    is_followed: bool = False,
) -> None:
    """Print the ids of what is in the queue now, a line each, and say who trains it.

    Where the runs are followed to their end, what is printed belongs to that.
    """
    if is_followed:
        say("\n".join(ids))
    elif as_json:
        runs = [
            {"id": run_id, "project": order.spec.project, "is_new": run_id == order.spec.run_id}
            for run_id, order in zip(ids, orders, strict=True)
        ]
        emit_json(runs=runs, driver=driver)
    else:
        for run_id in ids:
            emit(run_id)
    if driver is None:
        say("in the queue; no driver runs now: orc serve --background starts one")
    else:
        say(f"in the queue of {driver}; watch: orc wait, orc queue")


def _row(run: Run) -> tuple[object, ...]:
    ended = run.ended_at or 0.0
    seconds = ended - run.started_at if run.started_at is not None and ended else None
    return (
        run.name,
        run.state.value,
        f"{run.epoch}/{run.epochs}",
        _best_text(run.best),
        run.attempts,
        size_text(run.peak_bytes) if run.peak_bytes else "",
        span_text(seconds) if seconds is not None else "",
        run.gpu,
        run.address or run.folder,
    )


def _best_text(metrics: Mapping[str, float]) -> str:
    """The first metric; for boxes the one at an overlap of a half too, which people know best."""
    half = metrics.get("metrics/mAP50(B)")
    words = [f"mAP50(B) {half:.4g}"] if half is not None else []
    return ", ".join([*words, metric_text(metrics)])


def _what_next(runs: Sequence[Run]) -> list[str]:
    first = runs[0]
    best = f"files/attempt-{first.attempts}/weights/best.pt" if first.address else "weights/best.pt"
    return [
        f"weights, results.csv and logs are in each FOLDER: {best} is the best epoch",
        "try next",
        f"  orc show {first.id}   every epoch of it, with memory and seconds",
        "  orc train CONFIG epochs=20 imgsz=160   the same config with other settings",
        "  a config of your own: model, data, batch; the README shows one",
    ]


def _advice(run: Run) -> list[str]:
    """What to try next."""
    if run.state is RunState.SUCCEEDED:
        return []
    if run.state is RunState.CANCELLED:
        return [f"{run.name} was stopped; go on: orc resume {run.id}"]
    if run.state is not RunState.FAILED:
        return [f"{run.name} is {run.state}; go on: orc resume {run.id}"]
    first = (run.detail.splitlines() or ["no detail"])[0]
    lines = [f"{run.name} failed ({run.cause or 'unknown'}): {first}"]
    step = _NEXT.get(Cause(run.cause)) if run.cause else None
    logs = f"orc logs {run.id}"
    lines.append(f"  next  {step}; {logs}" if step else f"  next  {logs}, then orc resume {run.id}")
    return lines
