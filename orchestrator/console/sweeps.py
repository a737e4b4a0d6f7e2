"""`orc sweep ls|show|stop|best`, and what is said while a sweep is conducted."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.client.access import Client
from orchestrator.console.say import emit, emit_json, say
from orchestrator.errors import ConfigError
from orchestrator.sweep import asking
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.records import SweepRecord, every_sweep, read_sweep
from orchestrator.sweep.trials import Trial, TrialState

__all__ = ["Watcher", "list_sweeps", "show_best", "show_sweep", "stop_sweep", "trial_object"]


class Watcher:
    """Says when trials begin and end, a line each.

    Args:
        said: Takes the lines.
    """

    def __init__(self, said: Callable[[str], None]) -> None:
        self._said = said
        self._told: dict[int, TrialState] = {}

    def __call__(self, conductor: Conductor) -> None:
        """Say what is new."""
        for number, trial in conductor.study.trials.items():
            if self._told.get(number) is trial.state or trial.state is TrialState.SUGGESTED:
                continue
            self._told[number] = trial.state
            self._said(_line(trial, conductor.definition.metrics[0]))


def list_sweeps(client: Client, *, as_json: bool) -> int:
    """`orc sweep ls`."""
    records = every_sweep(client)
    if as_json:
        emit_json(sweeps=[_summary(record) for record in records])
        return 0
    if not records:
        say("there are no sweeps; orc sweep CONFIG begins one")
    for record in records:
        told = _summary(record)
        best = f"best {told['best']:.4g}" if told["best"] is not None else ""
        emit(
            f"{record.definition.name:<24} {record.state:<9} {told['started']:>4} of"
            f" {record.definition.trials} trials, {told['refused']} refused  {best}".rstrip()
        )
    return 0


def show_sweep(client: Client, name: str, *, as_json: bool) -> int:
    """`orc sweep show NAME`."""
    record = read_sweep(client, name)
    if as_json:
        emit_json(
            sweep=_summary(record),
            space=_space(record),
            trials=[trial_object(record, trial) for trial in record.trials],
            front=[trial.number for trial in record.front],
        )
        return 0
    told = _summary(record)
    definition = record.definition
    emit(f"{name}: {record.state}, {definition.search} with {definition.scheduler}")
    emit(
        f"{told['started']} of {definition.trials} trials started; {told['refused']} suggestions"
        f" refused ({record.share_refused:.0%}), of which nothing was launched"
    )
    for trial in record.started:
        emit(_line(trial, definition.metrics[0]))
    best = record.best
    if best is not None:
        scores = ", ".join(
            f"{metric} {value:.4g}"
            for metric, value in zip(definition.metrics, record.metrics(best), strict=True)
        )
        emit(f"best: trial {best.number} ({scores}); its config: orc sweep best {name}")
    return 0


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


def _summary(record: SweepRecord) -> dict[str, Any]:
    states = Counter(trial.state.value for trial in record.trials)
    best = record.best
    definition = record.definition
    return {
        "name": definition.name,
        "state": record.state.value,
        "search": definition.search,
        "scheduler": definition.scheduler,
        "metrics": list(definition.metrics),
        "modes": list(definition.modes),
        "trials": definition.trials,
        "started": len(record.started),
        "refused": len(record.trials) - len(record.started),
        "share_refused": record.share_refused,
        "states": dict(states),
        "best_trial": best.number if best else None,
        "best": record.metrics(best)[0] if best else None,
        "at": record.at,
    }


def _space(record: SweepRecord) -> dict[str, Any]:
    from orchestrator.store.codec import to_plain

    return {key: to_plain(dimension) for key, dimension in record.definition.space.items()}


def _line(trial: Trial, metric: str) -> str:
    values = " ".join(f"{key}={_short(value)}" for key, value in trial.values.items())
    last = trial.last
    score = last.metrics.get(metric) if last else None
    told = f"  {metric.removeprefix('metrics/')} {score:.4g}" if score is not None else ""
    epoch = f"  epoch {last.epoch}" if last else ""
    why = f"  ({trial.why})" if trial.why else ""
    return f"trial {trial.number:>3} {trial.state.value.lower():<10} {values}{epoch}{told}{why}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
