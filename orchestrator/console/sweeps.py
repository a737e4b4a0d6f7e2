"""`orc sweep ls|show|stop|best|export`: what they print."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.client.access import Client
from orchestrator.console.say import columns, emit, emit_json, say
from orchestrator.console.sweep_lines import (
    counts_text,
    importance_lines,
    importance_object,
    left_text,
    metrics_text,
    standing_object,
    trial_line,
    trial_object,
    values_text,
)
from orchestrator.errors import ConfigError
from orchestrator.sweep import asking
from orchestrator.sweep.importance import importance_of
from orchestrator.sweep.plots import Plots, draw_sweep
from orchestrator.sweep.records import SweepRecord, every_sweep, read_sweep
from orchestrator.sweep.standing import standing_of

__all__ = ["Wanted", "export_sweep", "list_sweeps", "show_best", "show_sweep", "stop_sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is shown of a sweep beside its trials. `evaluator` None shows no importance."""

    evaluator: str | None = None
    plots: Path | None = None


def list_sweeps(client: Client, *, as_json: bool) -> int:
    """`orc sweep ls`."""
    records = every_sweep(client)
    now = time.time()
    standings = [standing_of(record, now) for record in records]
    if as_json:
        pairs = zip(records, standings, strict=True)
        emit_json(sweeps=[standing_object(record, standing) for record, standing in pairs])
        return 0
    if not records:
        say("there are no sweeps; orc sweep CONFIG begins one")
        return 0
    rows = [
        (
            told.name,
            record.state.value,
            f"{told.started}/{told.trials}",
            told.refused,
            metrics_text(record, told.metrics),
            left_text(told),
        )
        for record, told in zip(records, standings, strict=True)
    ]
    emit(columns(("NAME", "STATE", "TRIALS", "REFUSED", "BEST", "END"), rows))
    return 0


def show_sweep(client: Client, name: str, *, as_json: bool, wanted: Wanted | None = None) -> int:
    """`orc sweep show NAME`.

    Raises:
        NotFoundError: E5031 no such sweep, E5035 importance is asked for and cannot be told.
        ConfigError: As `importance.importance_of` and `plots.draw_sweep`.
    """
    record = read_sweep(client, name)
    asked = wanted or Wanted()
    importance = []
    if asked.evaluator is not None:
        importance = [
            importance_of(record, metric=metric, evaluator=asked.evaluator)
            for metric in record.definition.metrics
        ]
    plots = None
    if asked.plots is not None:
        plots = draw_sweep(record, asked.plots, evaluator=asked.evaluator or "ped-anova")
    if as_json:
        told = standing_object(record, standing_of(record, time.time()))
        more: dict[str, Any] = {}
        if importance:
            more["importance"] = [importance_object(each) for each in importance]
        if plots is not None:
            more["plots"] = [str(path) for path in plots.written]
            more["plots_left_out"] = plots.left_out
        emit_json(
            sweep=told,
            space=told.pop("space"),
            trials=[trial_object(record, trial) for trial in record.trials],
            front=[trial.number for trial in record.front],
            **more,
        )
        return 0
    _show(record)
    for each in importance:
        emit("\n".join(importance_lines(each)))
    if plots is not None:
        _show_plots(plots)
    return 0


def _show(record: SweepRecord) -> None:
    definition = record.definition
    standing = standing_of(record, time.time())
    emit(
        f"{definition.name}: {definition.search} with {definition.scheduler}, {left_text(standing)}"
    )
    emit(counts_text(standing))
    for trial in record.started:
        emit(trial_line(record, trial))
    if len(definition.metrics) > 1 and record.front:
        emit("Pareto front: no other trial is better in every metric")
        names = [
            f"{m} ({mode})" for m, mode in zip(definition.metrics, definition.modes, strict=True)
        ]
        rows = [
            (trial.number, *(f"{value:.4g}" for value in record.metrics(trial)), values_text(trial))
            for trial in record.front
        ]
        emit(columns(("TRIAL", *names, "VALUES"), rows))
    if standing.best is not None:
        told = metrics_text(record, standing.metrics)
        emit(
            f"best: trial {standing.best.number} ({told}); its config: orc sweep best"
            f" {definition.name}"
        )


def _show_plots(plots: Plots) -> None:
    for path in plots.written:
        emit(str(path))
    for name, why in plots.left_out.items():
        say(f"no {name}: {why}")


def stop_sweep(client: Client, name: str, *, as_json: bool) -> int:
    """`orc sweep stop NAME`."""
    asking.stop(client, name)
    if as_json:
        emit_json(stopped=name)
    else:
        say(f"asked to stop {name}; go on with it: orc sweep resume {name}")
    return 0


def show_best(
    client: Client, name: str, *, trial: int | None, write: Path | None, as_json: bool
) -> int:
    """`orc sweep best NAME`: the best trial as a config, printed or written.

    Raises:
        ConfigError: E1019, the file exists.
    """
    chosen, text = asking.best_config(client, name, trial)
    if chosen.donors:
        say(
            f"trial {chosen.number} took over checkpoints, and its values changed while it trained;"
            " this config has the last of them"
        )
    if write is not None:
        if write.exists():
            raise ConfigError(f"{write} exists", code="E1019", fix=("choose another file",))
        write.write_text(text)
        say(f"trial {chosen.number} as {write}; train it: orc train {write}")
        return 0
    if as_json:
        emit_json(trial=trial_object(read_sweep(client, name), chosen), config=text)
    else:
        emit(text.rstrip())
    return 0


def export_sweep(client: Client, name: str, *, study: str | None, as_json: bool) -> int:
    """`orc sweep export NAME --study URL`: a study of Optuna, for optuna-dashboard and notebooks.

    Raises:
        NotFoundError: E5031, there is no such sweep.
        ConfigError: E1064, there is no such database; E1110, Optuna is not installed.
        ConflictError: E5034, the database has another study of this name.
    """
    if study is None:
        raise ConfigError(
            "orc sweep export needs --study",
            code="E1030",
            fix=(f"orc sweep export {name} --study sqlite:///{name}.db",),
        )
    record = read_sweep(client, name)
    try:
        from orchestrator.sweep.study import export_study
    except ImportError as error:
        raise ConfigError(
            "a study needs Optuna, which is not installed",
            code="E1110",
            fix=('pip install "orchestrator[sweep]"',),
        ) from error
    count = export_study(record, study)
    if as_json:
        emit_json(study=study, name=name, trials=count)
    else:
        say(f"{count} trials as the study {name} of {study}; see it: optuna-dashboard {study}")
    return 0
