"""What plain Ray Tune forgets when its driver is killed, beside a sweep of ours: its rungs.

`python -m jobs.tune_restore` lets Tune run ASHA, kills its process once four scores are recorded
and its state is on disk, restores it as its documentation says, and prints what the scheduler knows
before and after. The same is done to whoever conducts a sweep of ours. It takes about a minute.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.bench_sweep_durable import LastingRuns
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.conducting import searcher_of
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.records import StoreRecorder, create_sweep, read_events
from orchestrator.sweep.space import uniform
from orchestrator.sweep.stopping import Rung
from orchestrator.sweep.stub_runs import StubRuns

__all__ = ["main"]

_EPOCH_SECONDS = 1.0
_NUM_TRIALS = 6
_LEAST_SCORES = 4
_EPOCHS = 27
_SECONDS = 120.0  # of each of Tune's two processes


def _train(config: dict[str, Any]) -> None:
    from ray import tune

    kept = tune.get_checkpoint()
    start = 0
    if kept:
        with kept.as_directory() as folder:
            start = int((Path(folder) / "epoch").read_text())
    for epoch in range(start + 1, _EPOCHS + 1):
        time.sleep(_EPOCH_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch").write_text(str(epoch))
            tune.report(
                {"score": config["x"] * epoch, "epoch": epoch},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


def _fit(storage: str, *, is_restore: bool) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    scheduler = ASHAScheduler(max_t=_EPOCHS, grace_period=1, reduction_factor=3)
    told = Path(storage) / ("after.json" if is_restore else "before.json")

    class Tells(tune.Callback):  # type: ignore[misc]  # Ray has no types
        """Writes down what the scheduler has recorded."""

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            rungs = {
                str(rung): len(scores)
                for bracket in scheduler._brackets
                for rung, scores in bracket._rungs
            }
            told.write_text(json.dumps(rungs))
            if is_restore:
                os.kill(os.getpid(), signal.SIGKILL)  # the first result after the restore tells
            is_kept = any(Path(storage).glob("drill/experiment_state-*.json"))
            if is_kept and sum(rungs.values()) >= _LEAST_SCORES:
                os.kill(os.getpid(), signal.SIGKILL)

    trainable = tune.with_resources(_train, {"CPU": 0.5})
    if is_restore:
        tuner = tune.Tuner.restore(f"{storage}/drill", trainable=trainable)
        scheduler = tuner._local_tuner._tune_config.scheduler
        tuner._local_tuner._run_config.callbacks = [Tells()]
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                metric="score", mode="max", scheduler=scheduler, num_samples=_NUM_TRIALS
            ),
            run_config=tune.RunConfig(
                name="drill", storage_path=storage, verbose=0, callbacks=[Tells()]
            ),
        )
    tuner.fit()


def _tune(storage: Path) -> dict[str, Any]:
    """Scores by rung before the kill, and at the first result after the restore."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "1",
    }
    for word in ("run", "restore"):
        words = [sys.executable, "-m", "jobs.tune_restore", word, str(storage)]
        subprocess.run(  # noqa: S603 - ourselves
            words,
            env=environment,
            check=False,
            timeout=_SECONDS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return {
        name: json.loads((storage / f"{name}.json").read_text()) for name in ("before", "after")
    }


def _ours(folder: Path) -> dict[str, Any]:
    """The same of a sweep: before the kill, and as soon as it is taken up again."""
    definition = Definition(
        name="drill",
        metrics=("score",),
        modes=("max",),
        space={"x": uniform(0, 1)},
        config="",
        folder="",
        project="stub",
        trials=_NUM_TRIALS,
        search="random",
        max_concurrent=4,
        epochs=_EPOCHS,
    )
    with SqlStore(str(folder / "orchestrator.db")) as store:
        create_sweep(store, definition, 0.0)
    child = os.fork()
    if child == 0:
        _conduct(folder, definition, is_killed=True)
    os.waitpid(child, 0)
    before = json.loads((folder / "before.json").read_text())
    return {"before": before, "after": _conduct(folder, definition, is_killed=False)}


def _conduct(folder: Path, definition: Definition, *, is_killed: bool) -> dict[str, int]:
    with SqlStore(str(folder / "orchestrator.db")) as store:
        runs = LastingRuns(folder / "runs", StubRuns(epochs=_EPOCHS))
        recorder = StoreRecorder(store, "drill")
        conductor = Conductor(definition, searcher_of(definition), runs, recorder, time.time)
        conductor.replay(event for _, event in read_events(store, "drill"))
        while is_killed:
            conductor.advance()
            known = _by_rung(conductor.rungs)
            if sum(known.values()) >= _LEAST_SCORES:
                (folder / "before.json").write_text(json.dumps(known))
                os.kill(os.getpid(), signal.SIGKILL)
        return _by_rung(conductor.rungs)


def _by_rung(brackets: Sequence[Sequence[Rung]]) -> dict[str, int]:
    return {str(rung.epoch): len(rung.scores) for rungs in brackets for rung in rungs}


def main() -> None:
    """Print both, and how many scores each had lost."""
    began = time.monotonic()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for system, work in (("plain_tune", _tune), ("ours", _ours)):
            folder = Path(name) / system
            folder.mkdir()
            found = work(folder)
            new = 1 if system == "plain_tune" else 0  # the result that came after the restore
            before, after = (sum(found[moment].values()) for moment in ("before", "after"))
            told[system] = {**found, "scores_lost": max(0, before - (after - new))}
    print(json.dumps({**told, "seconds": round(time.monotonic() - began, 1)}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _fit(sys.argv[2], is_restore=sys.argv[1] == "restore")
    else:
        main()
