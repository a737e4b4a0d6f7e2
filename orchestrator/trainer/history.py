"""What the epochs of a run have shown so far; part of every checkpoint, with the rule to stop."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["TOP1", "History"]

TOP1 = "metrics/accuracy_top1"


@dataclass(slots=True, kw_only=True)
class History:
    """Completed epochs and the best of them, the first with the highest top-1 accuracy."""

    epoch: int = 0  # completed
    seconds: float = 0.0
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_file: str = ""  # attempt and name of the best epoch's checkpoint; empty in itself
    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, metrics: Mapping[str, float], seconds: float) -> bool:
        """Record an epoch; True when it is the best so far."""
        self.epoch += 1
        self.seconds += seconds
        self.rows.append({"epoch": self.epoch, "time": self.seconds, **metrics})
        is_best = not self.best_epoch or metrics[TOP1] > self.best_metrics[TOP1]
        if is_best:
            self.best_epoch, self.best_metrics, self.best_file = self.epoch, dict(metrics), ""
        return is_best

    def of_clone(self) -> "History":
        """The same for a run that goes on from here under other settings: its best is to come."""
        return replace(self, best_epoch=0, best_metrics={}, best_file="")

    def is_exhausted(self, patience: int) -> bool:
        """True when `patience` epochs have passed without a better one; 0 waits for ever."""
        return 0 < patience <= self.epoch - self.best_epoch
