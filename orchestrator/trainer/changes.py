"""Tells of every change that memory forced on a training: to the log, and to the driver."""

import logging

from orchestrator.messages import GivenUp, Recut
from orchestrator.ports import RunLink
from orchestrator.types import TrainTask

__all__ = ["Changes"]

log = logging.getLogger(__name__)


class Changes:
    """Counts changes by epoch and tells them; of a gang, rank 0 tells the driver.

    Args:
        task: The attempt.
        link: To the driver.
    """

    def __init__(self, task: TrainTask, link: RunLink) -> None:
        self._task, self._link = task, link
        self.epoch = 0
        self.count = 0

    def begin(self, epoch: int) -> None:
        """Count anew. `epoch` counts from 1."""
        self.epoch, self.count = epoch, 0

    def recut(self, old: int, new: int, why: str, *, in_validation: bool = False) -> None:
        """Pieces have another size from now on."""
        what = "validation batch" if in_validation else "micro-batch"
        level = logging.WARNING if new < old else logging.INFO
        self._say(level, f"{what} {old} -> {new}", why)
        self._send(Recut(epoch=self.epoch, old=old, new=new, why=why, in_validation=in_validation))

    def rung(self, given: GivenUp, micro_batch: int, why: str) -> None:
        """A rung was taken, or named for the next attempt."""
        when = "" if given.is_live else " from the next attempt on"
        self._say(logging.WARNING, f"gives up {given.rung} ({given.setting}){when}", why)
        self._send(
            Recut(epoch=self.epoch, old=micro_batch, new=micro_batch, why=why, given_up=given)
        )

    def _say(self, level: int, what: str, why: str) -> None:
        batch = self._task.batch.effective_batch
        log.log(
            level, "epoch %d: %s, the effective batch stays %d (%s)", self.epoch, what, batch, why
        )

    def _send(self, recut: Recut) -> None:
        self.count += 1
        if self._task.rank == 0:
            self._link.recut(recut)
