"""The files of a classifier's training: its checkpoints, and what it leaves in the run folder."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.history import History
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.randomness import load_state, save_state
from orchestrator.trainer.results import read_weights, write_args, write_results, write_weights
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.types import CheckpointRef, TrainTask

__all__ = ["in_run", "leave_files", "read_checkpoint", "write_checkpoint"]


def write_checkpoint(
    state: Mapping[str, Any], link: RunLink, device: Device, *, is_best: bool = False, step: int = 0
) -> CheckpointRef:
    """Write the state after an epoch and some steps; it counts as written when it reads back."""
    epoch = state["history"]["epoch"]

    def check(file: BinaryIO) -> None:
        found = load_state(file)
        if found.keys() != state.keys() or found["history"]["epoch"] != epoch:
            raise ValueError(f"the checkpoint of epoch {epoch} does not read back")

    with on_host(device):
        return link.save(
            epoch, lambda file: save_state(state, file), is_best=is_best, check=check, step=step
        )


def read_checkpoint(
    checkpoint: CheckpointRef, classes: tuple[str, ...], data: str, device: Device
) -> dict[str, Any]:
    """Read a state that was written by `write_checkpoint`.

    Raises:
        DataError: E3107, the data set has other classes by now.
    """
    with Path(checkpoint.path).open("rb") as file, on_host(device):
        state = load_state(file)
    if tuple(state["classes"]) != classes:
        raise DataError(
            f"the classes of {data} changed since epoch {checkpoint.epoch}",
            code="E3107",
            why=(f"were: {', '.join(state['classes'])}", f"are: {', '.join(classes)}"),
            fix=("restore the class folders, or start a new run",),
        )
    return state


def leave_files(
    task: TrainTask,
    options: TimmOptions,
    history: History,
    weights: Mapping[str, Tensor],
    *,
    about: Mapping[str, Any],
    checkpoints: Path,
) -> None:
    """Write weights, results and settings into the run folder.

    Args:
        task: The attempt.
        options: Of the run.
        history: All epochs.
        weights: That the last epoch was judged by; those of the best are in its checkpoint.
        about: What the weights are of: model, classes, size and look of the pictures.
        checkpoints: The folder of the run's checkpoints.
    """
    folder, settings, batch = Path(task.spec.folder), task.spec.settings, task.batch
    best_weights = read_weights(checkpoints / history.best_file)
    last = {"epoch": history.epoch, "metrics": history.rows[-1]}
    write_weights(folder / "weights" / "last.pt", weights, {**about, **last})
    best = {"epoch": history.best_epoch, "metrics": history.best_metrics}
    write_weights(folder / "weights" / "best.pt", best_weights, {**about, **best})
    write_results(folder / "results.csv", history.rows)
    shared = {key: value for key, value in asdict(settings).items() if key != "options"}
    sizes = {"batch": batch.effective_batch, "micro_batch": batch.micro_batch}
    write_args(folder / "args.yaml", shared | sizes | asdict(options))


def in_run(checkpoint: Path) -> str:
    """Its path below the run's checkpoints: the best may be of another attempt than the last."""
    return f"{checkpoint.parent.name}/{checkpoint.name}"
