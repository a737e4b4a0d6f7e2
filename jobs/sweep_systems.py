"""Three ways to search the same space of one detector: ours, `YOLO.tune(use_ray=True)`, plain Tune.

`python -m jobs.sweep_systems SYSTEM BUDGET FOLDER` does one and prints what came of it as JSON.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.client.access import Client
from orchestrator.device.catalogue import find_card
from orchestrator.messages import GangFailed, GangFinished, GangStarted, GangYielded
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.trials import Trial, TrialState

__all__ = ["SYSTEMS", "Budget", "main", "ours", "plain_tune", "plain_tune_reused", "yolo_tune"]

_METRIC = "metrics/mAP50-95(B)"  # what YOLO.tune maximises, whatever is asked
_SECOND = "metrics/mAP50(B)"
_BAD = (TrialState.FAILED, TrialState.INFEASIBLE)
_SPACE: Mapping[str, Any] = {
    "lr0": {"loguniform": [1e-4, 1e-2]},
    "momentum": {"uniform": [0.8, 0.98]},
    "weight_decay": {"loguniform": [1e-5, 1e-2]},
    "mosaic": {"uniform": [0.0, 1.0]},
    "batch": [8, 16, 32],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every system is given. `is_early` lets each stop trials by ASHA with a grace of one."""

    data: str
    model: str
    trials: int = 12
    epochs: int = 3
    imgsz: int = 96
    concurrent: int = 2
    seed: int = 0
    is_early: bool = False
    card: str = "custom 1GiB"

    @property
    def arguments(self) -> dict[str, Any]:
        """What all of them train with, by ultralytics' keys."""
        return {
            "data": self.data,
            "epochs": self.epochs,
            "imgsz": self.imgsz,
            "seed": self.seed,
            "optimizer": "AdamW",
            "warmup_epochs": 0.0,
            "close_mosaic": 0,
            "workers": 0,
        }


def ours(budget: Budget, folder: Path) -> dict[str, Any]:
    """A sweep of this product, on as many emulated cards as trials train at once."""
    from orchestrator.sweep import asking
    from orchestrator.sweep.conducting import conduct

    marks: dict[str, float] = {"began": time.time()}
    config = {
        "cluster": {"emulate": [budget.card] * budget.concurrent},
        "runs": str(folder / "runs"),
        "projects": [{"name": "cells", "model": budget.model, "amp": "fp32", **budget.arguments}],
    }
    block: dict[str, Any] = {
        "name": "bench",
        "metric": _METRIC,
        "trials": budget.trials,
        "max_concurrent": budget.concurrent,
        "scheduler": "asha" if budget.is_early else "none",
        "seed": budget.seed,
        "space": _SPACE,
    }

    def watch(conductor: Conductor) -> None:
        if conductor.study.num_events:
            marks.setdefault("suggested", time.time())

    client = Client(folder / "home")
    asking.create(client, config, **block)
    record = conduct(client, "bench", said=_said, watch=watch)
    marks["ended"] = time.time()
    with client.store() as store:
        told = _times(store, marks) | {"held": _held(store)}
    scores = [_best_of([row.metrics for row in trial.epochs]) for trial in record.started]
    return {
        "trials": len(record.started),
        "failed": sum(
            t.state in (TrialState.FAILED, TrialState.INFEASIBLE) for t in record.started
        ),
        "refused": len(record.trials) - len(record.started),
        "epochs": sum(len(trial.epochs) for trial in record.started),
        "limit_mib": budget.concurrent * find_card(budget.card).memory_bytes >> 20,
        **_summary(scores),
        **told,
        "trial_seconds": [_seconds(trial) for trial in record.started],
    }


def _seconds(trial: Trial) -> tuple[float, float]:
    """From its suggestion to its end, and those of its epochs."""
    whole = (trial.ended_at or trial.at) - trial.at
    return round(whole, 2), round(sum(row.seconds for row in trial.epochs), 2)


def _times(store: SqlStore, marks: Mapping[str, float]) -> dict[str, Any]:
    """Where the time went, in seconds after the beginning, and the worker processes."""
    began, pids, first = marks["began"], set[int](), None
    for _, event in store.events():
        if isinstance(event, GangStarted):
            first = first or event.at
            pids.update(event.pids)
    found = {
        "until_suggested": marks.get("suggested", began) - began,
        "until_first_worker": (first or began) - began,
        "until_ended_and_left": marks["ended"] - began,
    }
    return {"processes": len(pids), "marks": {k: round(v, 1) for k, v in found.items()}}


def _held(store: SqlStore) -> dict[str, float]:
    """The most bytes of tensors that trials held at one time, by their own peaks, in MiB."""
    peaks: dict[str, int] = {}
    for peak in store.peaks():
        peaks[peak.attempt] = max(peak.peak_bytes, peaks.get(peak.attempt, 0))
    moves = []
    for _, event in store.events():
        if isinstance(event, GangStarted):
            moves.append((event.at, peaks.get(str(event.attempt), 0)))
        elif isinstance(event, GangFinished | GangYielded | GangFailed):
            moves.append((event.at, -peaks.get(str(event.attempt), 0)))
    held = most = 0
    for _, change in sorted(moves):
        held += change
        most = max(most, held)
    return {"most_mib": most >> 20, "largest_mib": max(peaks.values(), default=0) >> 20}


def yolo_tune(budget: Budget, folder: Path) -> dict[str, Any]:
    """`YOLO.tune(use_ray=True)` of the installed ultralytics, told the same."""
    ray = _local_ray(budget, folder)
    yolo = importlib.import_module("ultralytics").YOLO
    began = time.time()
    grid = yolo(budget.model).tune(
        use_ray=True,
        space=_tune_space(),
        iterations=budget.trials,
        grace_period=1 if budget.is_early else budget.epochs,
        **budget.arguments,
        **_peers(folder),
    )
    with suppress(Exception):
        ray.shutdown()
    return _told(grid, time.time() - began)


def plain_tune(budget: Budget, folder: Path) -> dict[str, Any]:
    """Ray Tune with a function that calls `YOLO.train`, a process a trial, as by default."""
    return _plain(budget, folder, is_reused=False)


def plain_tune_reused(budget: Budget, folder: Path) -> dict[str, Any]:
    """The same with `reuse_actors`: a process is kept for the next trial."""
    return _plain(budget, folder, is_reused=True)


def _plain(budget: Budget, folder: Path, *, is_reused: bool) -> dict[str, Any]:
    ray = _local_ray(budget, folder)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    fixed = {**budget.arguments, **_peers(folder)}
    model = budget.model

    def train(config: dict[str, Any]) -> None:
        from ultralytics import YOLO  # its own callback reports each epoch to Tune

        YOLO(model).train(**config, **fixed, name=tune.get_context().get_trial_id())

    grace = 1 if budget.is_early else budget.epochs
    began = time.time()
    grid = tune.Tuner(
        tune.with_resources(train, {"CPU": 1}),
        param_space=_tune_space(),
        tune_config=tune.TuneConfig(
            metric=_METRIC,
            mode="max",
            num_samples=budget.trials,
            max_concurrent_trials=budget.concurrent,
            search_alg=OptunaSearch(seed=budget.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=budget.epochs, grace_period=grace, reduction_factor=3
            ),
            reuse_actors=is_reused,
        ),
        run_config=tune.RunConfig(name="bench", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    seconds = time.time() - began
    ray.shutdown()
    return _told(grid, seconds)


def _local_ray(budget: Budget, folder: Path) -> Any:
    """A Ray of its own, with a CPU for each trial that may train at once."""
    os.environ.update(
        {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    )
    import ray

    ray.init("local", num_cpus=budget.concurrent, include_dashboard=False, logging_level="ERROR")
    return ray


def _peers(folder: Path) -> dict[str, Any]:
    """The rest of what ours does by itself: one optimizer step a batch, no figures, no fp16."""
    return {
        "nbs": 8,
        "plots": False,
        "amp": False,
        "device": "cpu",
        "project": str(folder / "runs"),
    }


def _tune_space() -> dict[str, Any]:
    from ray import tune

    def made(given: Any) -> Any:
        if isinstance(given, list):
            return tune.choice(given)
        ((kind, ends),) = given.items()
        return getattr(tune, kind)(*ends)

    return {key: made(given) for key, given in _SPACE.items()}


def _told(grid: Any, seconds: float) -> dict[str, Any]:
    rows = [
        [] if result.metrics_dataframe is None else result.metrics_dataframe.to_dict("records")
        for result in grid
    ]
    return {
        "trials": len(grid),
        "failed": grid.num_errors + sum(not each for each in rows),
        "epochs": sum(len({row["epoch"] for row in each}) for each in rows if each),
        "seconds_of_the_call": round(seconds, 1),
        **_summary([_best_of(each) for each in rows]),
    }


def _best_of(rows: Any) -> tuple[float, float]:
    """The best epoch of a trial by the metric, and its mAP50."""
    pairs = [(float(row[_METRIC]), float(row[_SECOND])) for row in rows if _METRIC in row]
    return max(pairs, default=(0.0, 0.0))


def _summary(scores: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "best_map50_95": round(max((s[0] for s in scores), default=0.0), 4),
        "best_map50": round(max((s[1] for s in scores), default=0.0), 4),
        "scores": [round(score, 4) for score, _ in scores],
    }


def _said(text: str) -> None:
    sys.stderr.write(f"{text}\n")


SYSTEMS: Mapping[str, Callable[[Budget, Path], dict[str, Any]]] = {
    "ours": ours,
    "yolo_tune": yolo_tune,
    "plain_tune": plain_tune,
    "plain_tune_reused": plain_tune_reused,
}


def main(system: str, budget: Budget, folder: Path) -> None:
    """Search, and print the figures as the last line."""
    found = SYSTEMS[system](budget, folder)
    print(json.dumps({"budget": asdict(budget), **found}))


if __name__ == "__main__":
    main(sys.argv[1], Budget(**json.loads(sys.argv[2])), Path(sys.argv[3]))
