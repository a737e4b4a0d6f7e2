"""`orc show PROJECT` for a project of several runs: every fold and stage, mean and deviation."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.client.access import Client, Run
from orchestrator.client.results import Series, series_of
from orchestrator.console.read import main_metric, run_object
from orchestrator.console.say import columns, emit, emit_json

__all__ = ["series_lines", "show_series"]

_METRICS = 4  # columns; the files have all


def show_series(client: Client, text: str, *, as_json: bool) -> bool:
    """Show the newest series of the project `text`; False where its newest run is of none."""
    runs = client.runs(text) if text else ()
    every = series_of(runs)
    if not every or runs[-1].part is None:
        return False
    newest = every[-1]
    if as_json:
        emit_json(
            project=newest.project,
            series=newest.series,
            config=newest.config,
            has_ended=newest.has_ended,
            runs=[run_object(run) for run in newest.runs],
            summary=[
                {"stage": stage, "metrics": {n: asdict(s) for n, s in newest.spread(stage).items()}}
                for stage in _stages(newest)
            ],
        )
        return True
    emit(f"{newest.project}: {len(newest.runs)} runs of config {newest.config}")
    emit("\n".join(series_lines(newest)))
    if len(every) > 1:
        emit(f"{len(every) - 1} earlier series of this project: orc ls --project {newest.project}")
    return True


def series_lines(series: Series) -> list[str]:
    """A table of the runs with mean and deviation of each stage over the folds."""
    names = _shown(series)
    head = (
        "FOLD",
        "STAGE",
        "RUN",
        "STATE",
        "BEST EPOCH",
        *(n.removeprefix("metrics/") for n in names),
    )
    rows = [_row(run, names) for run in series.runs]
    for stage in _stages(series) if series.num_folds else ():
        spread = series.spread(stage)
        if not spread:
            continue
        num = max(one.num for one in spread.values())
        means = [f"{spread[n].mean:.4g}" if n in spread else "" for n in names]
        stds = [_std(spread[n].std) if n in spread else "" for n in names]
        rows.append((f"mean of {num}", _stage_name(series, stage), "", "", "", *means))
        rows.append(("std", _stage_name(series, stage), "", "", "", *stds))
    return columns(head, rows).splitlines()


def _std(std: float | None) -> str:
    return "" if std is None else f"{std:.2g}"


def _row(run: Run, names: Sequence[str]) -> tuple[object, ...]:
    part = run.part
    assert part is not None
    return (
        f"{part.fold}/{part.num_folds}" if part.num_folds else "-",
        f"{part.stage}/{part.num_stages} {part.stage_name}" if part.num_stages else "-",
        run.id,
        " ".join(filter(None, (run.state.value, run.reason or run.cause))),
        f"{run.best_epoch or run.epoch}/{run.epochs}",
        *(f"{run.best[name]:.4g}" if name in run.best else "" for name in names),
    )


def _shown(series: Series) -> list[str]:
    """The metric that counts first, then others, a few in all."""
    best = next((run.best for run in series.runs if run.best), {})
    main = main_metric(best)
    rest = [name for name in best if name.startswith("metrics/")] or list(best)
    return list(dict.fromkeys([*([main[0]] if main else []), *rest]))[:_METRICS]


def _stages(series: Series) -> list[int]:
    return sorted({run.part.stage for run in series.runs if run.part})


def _stage_name(series: Series, stage: int) -> str:
    names = [run.part.stage_name for run in series.runs if run.part and run.part.stage == stage]
    return f"{stage}/{series.num_stages} {names[0]}" if series.num_stages else "-"
