"""What plain Ray Tune forgets when its driver is killed: the rungs of its early stopping.

`python -m jobs.tune_restore` lets Tune run ASHA, kills its process at the fourth recorded score,
restores it as its documentation says, and prints what the scheduler knows before and after.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_EPOCH_SECONDS = 1.0
_NUM_TRIALS = 6


def _train(config: dict[str, Any]) -> None:
    from ray import tune

    kept = tune.get_checkpoint()
    start = 0
    if kept:
        with kept.as_directory() as folder:
            start = int((Path(folder) / "epoch").read_text())
    for epoch in range(start + 1, 28):
        time.sleep(_EPOCH_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch").write_text(str(epoch))
            tune.report(
                {"score": config["x"] * epoch, "epoch": epoch},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


def _fit(storage: str, *, restore: bool) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    scheduler = ASHAScheduler(max_t=27, grace_period=1, reduction_factor=3)
    told = Path(storage) / ("after.json" if restore else "before.json")

    class Tells(tune.Callback):  # type: ignore[misc]  # Ray has no types
        """Writes down what the scheduler has recorded."""

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            rungs = {
                str(rung): len(scores)
                for bracket in scheduler._brackets
                for rung, scores in bracket._rungs
            }
            told.write_text(json.dumps({"scores_by_rung": rungs, "seen": scheduler._num_stopped}))
            if (
                not restore
                and sum(rungs.values()) >= 4
                and list(Path(storage).glob("drill/experiment_state-*.json"))
            ):
                os.kill(os.getpid(), signal.SIGKILL)
            if restore:
                os._exit(0)  # the first result after the restore tells

    given = tune.TuneConfig(
        metric="score", mode="max", scheduler=scheduler, num_samples=_NUM_TRIALS
    )
    run = tune.RunConfig(name="drill", storage_path=storage, verbose=0, callbacks=[Tells()])
    if restore:
        from ray.tune.execution import tune_controller  # noqa: F401 - what restores

        tuner = tune.Tuner.restore(
            f"{storage}/drill", trainable=tune.with_resources(_train, {"CPU": 0.3})
        )
        scheduler = tuner._local_tuner._tune_config.scheduler
        tuner._local_tuner._run_config.callbacks = [Tells()]
        tuner.fit()
        return
    tune.Tuner(
        tune.with_resources(_train, {"CPU": 0.3}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=given,
        run_config=run,
    ).fit()


def main() -> None:
    """Print what was known before the kill, and after the restore."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "1",
    }
    with tempfile.TemporaryDirectory() as storage:
        for word in ("run", "restore"):
            words = [sys.executable, "-m", "jobs.tune_restore", word, storage]
            subprocess.run(words, env=environment, check=False, timeout=280)  # noqa: S603
        known = {
            name: json.loads((Path(storage) / f"{name}.json").read_text())
            for name in ("before", "after")
        }
    print(json.dumps(known, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _fit(sys.argv[2], restore=sys.argv[1] == "restore")
    else:
        main()
