"""Sweeps in words: a trial in a line, a sweep in a sentence, and both as JSON objects."""

from typing import Any

from orchestrator.console.say import span_text
from orchestrator.store.codec import to_plain
from orchestrator.sweep.importance import Importance
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.standing import Standing
from orchestrator.sweep.trials import SweepState, Trial

__all__ = [
    "counts_text",
    "importance_lines",
    "importance_object",
    "left_text",
    "metrics_text",
    "short",
    "standing_object",
    "trial_line",
    "trial_object",
    "values_text",
]


def short(value: object) -> str:
    """A value for people, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values_text(trial: Trial) -> str:
    """What a trial tries."""
    return " ".join(f"{key}={short(value)}" for key, value in trial.values.items())


def metrics_text(record: SweepRecord, metrics: tuple[float, ...]) -> str:
    """The metrics of a trial by their names; empty without any."""
    names = [name.removeprefix("metrics/") for name in record.definition.metrics]
    return ", ".join(f"{n} {value:.4g}" for n, value in zip(names, metrics, strict=False))


def trial_line(record: SweepRecord, trial: Trial) -> str:
    """A trial in a line: state, values, epoch, metrics of its last epoch, why it ended."""
    last = trial.last
    metrics = record.definition.metrics
    told = [m for m in metrics if last is not None and m in last.metrics]
    scores = "".join(
        f"  {m.removeprefix('metrics/')} {last.metrics[m]:.4g}" for m in told if last is not None
    )
    epoch = f"  epoch {last.epoch}" if last else ""
    why = f"  ({trial.why})" if trial.why else ""
    state = trial.state.value.lower()
    return f"trial {trial.number:>3} {state:<10} {values_text(trial)}{epoch}{scores}{why}"


def counts_text(standing: Standing) -> str:
    """How many trials are where, and the share of suggestions that were refused."""
    parts = [
        f"{standing.started} of {standing.trials} trials started",
        f"{standing.running} running",
        f"{standing.finished} finished",
        f"{standing.stopped} stopped early",
    ]
    if standing.infeasible:
        parts.append(f"{standing.infeasible} infeasible")
    if standing.failed:
        parts.append(f"{standing.failed} failed")
    refused = f"{standing.refused} suggestions refused ({standing.share_refused:.0%})"
    return f"{', '.join(parts)}; {refused}, of which nothing was launched"


def left_text(standing: Standing) -> str:
    """When a running sweep ends, or what it did."""
    if standing.state is not SweepState.RUNNING:
        return standing.state.value.lower()
    if standing.left is None:
        return "its end is not known before the first trial has ended"
    return f"ends in about {span_text(standing.left)}"


def importance_lines(told: Importance) -> list[str]:
    """A bar of twenty signs a key, under what it was worked out from."""
    head = (
        f"importance for {told.metric} by {told.evaluator}, over {told.num_trials} trials at epoch"
        f" {told.epoch}"
    )
    width = max(map(len, told.shares))
    lines = [
        f"  {key:<{width}}  {share:6.1%}  {'#' * round(20 * share)}".rstrip()
        for key, share in told.shares.items()
    ]
    rest = [f"  not told: {', '.join(told.left_out)}"] if told.left_out else []
    return [head, *lines, *rest]


def importance_object(told: Importance) -> dict[str, Any]:
    """Importance as `--json` tells it."""
    return {
        "metric": told.metric,
        "evaluator": told.evaluator,
        "epoch": told.epoch,
        "num_trials": told.num_trials,
        "shares": dict(told.shares),
        "left_out": list(told.left_out),
    }


def standing_object(record: SweepRecord, standing: Standing) -> dict[str, Any]:
    """A sweep as `--json` tells it."""
    definition = record.definition
    states = [trial.state.value for trial in record.trials]
    return {
        "name": definition.name,
        "state": record.state.value,
        "search": definition.search,
        "scheduler": definition.scheduler,
        "metrics": list(definition.metrics),
        "modes": list(definition.modes),
        "trials": definition.trials,
        "started": standing.started,
        "refused": standing.refused,
        "share_refused": standing.share_refused,
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "best_trial": standing.best.number if standing.best else None,
        "best": standing.metrics[0] if standing.metrics else None,
        "seconds_left": standing.left,
        "at": record.at,
        "space": {key: to_plain(dimension) for key, dimension in definition.space.items()},
    }


def trial_object(record: SweepRecord, trial: Trial) -> dict[str, Any]:
    """A trial as `--json` tells it."""
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "values": dict(trial.values),
        "settings": dict(trial.settings),
        "run": trial.run_id,
        "runs": list(trial.runs),
        "generation": trial.generation,
        "epochs": len(trial.epochs),
        "metrics": dict(zip(record.definition.metrics, record.metrics(trial), strict=False)),
        "last": dict(trial.last.metrics) if trial.last else {},
        "violations": dict(trial.violations),
        "why": trial.why,
        "at": trial.at,
        "ended_at": trial.ended_at,
    }
