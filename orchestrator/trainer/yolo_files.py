"""What ultralytics' loop leaves in the run folder for people: weights, results, plots, settings."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.trainer import yolo_state
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.trainer.yolo_attempt import Attempt
from orchestrator.trainer.yolo_weights import BestWeights, copy_weights, write_weights

__all__ = ["Files"]

if TYPE_CHECKING:
    _Mixed = Any  # whichever trainer class follows in the order of resolution
else:
    _Mixed = object


class Files(_Mixed):
    """Mixed into a trainer class, before it.

    Of the best weights those of an epoch may be written later, but before anything is recorded
    that does not hold them: a checkpoint of the best epoch does.
    """

    attempt: Attempt
    best_weights: BestWeights

    def take_best(self: Any, metrics: Mapping[str, float]) -> None:
        """Remember the averaged weights, which are the best so far."""
        with on_host(self.attempt.device):
            self.best_weights.take(self, metrics)

    def write_best(self: Any) -> None:
        """Let weights/best.pt be that of the best epoch so far."""
        with on_host(self.attempt.device):
            self.best_weights.write()

    def repair_best(self: Any, state: Mapping[str, Any]) -> None:
        """Write the best weights from a restored state, where the attempt before owes them.

        Call it with the state in place, before anything trains on.
        """
        is_own = self.attempt.ranks.is_first and not yolo_state.is_clone(self)
        best = state["best"]
        is_best = "under_way" not in state and best.get("epoch") == state["epoch"]
        is_missing = state.get("owed") or not self.best_weights.file.exists()
        if is_own and is_best and is_missing:
            self.take_best(best["metrics"])
            self.write_best()

    def final_eval(self: Any) -> None:
        """Leave the weights, results and plots in the run folder.

        ultralytics would validate the best weights once more; their numbers are recorded already.
        """
        if self.attempt.task.rank != 0:
            return
        self.write_best()
        weights = self.best_weights.file.parent
        if self.tloss and self.attempt.best["epoch"] == self.epoch + 1:
            copy_weights(self.best_weights.file, weights / "last.pt")
        else:
            last = self.epoch_metrics() if self.tloss else dict(self.attempt.best["metrics"])
            with on_host(self.attempt.device):
                write_weights(self, weights / "last.pt", last)
        self._publish(self.csv)
        for picture in (*self.save_dir.glob("*.png"), *self.save_dir.glob("*.jpg")):
            self._publish(picture)

    def _publish(self: Any, file: Path) -> None:
        """Copy a file of the attempt into the run folder; it appears whole or not at all."""
        target = self.attempt.run_folder / file.name
        if target != file and file.exists():
            scratch = target.with_name(f".{target.name}.{self.attempt.task.attempt.number}")
            shutil.copyfile(file, scratch)
            scratch.replace(target)

    def publish_arguments(self: Any) -> None:
        """Show people what ultralytics was given."""
        if self.attempt.task.rank == 0:
            self._publish(self.save_dir / "args.yaml")

    def finish_again(self: Any) -> None:
        """Leave the files of a training that was complete but not yet recorded as such."""
        self._setup_train()
        self.lr: dict[str, float] = {}
        self.final_eval()
