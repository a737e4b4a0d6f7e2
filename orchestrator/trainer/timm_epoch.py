"""The steps of a classifier's epoch: told, watched for stops, and kept where it is left halfway."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from orchestrator.ports import RunLink
from orchestrator.trainer.failures import not_finite
from orchestrator.trainer.feed import Feed
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.loading import Batch, batches
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.unfinished import Keeper
from orchestrator.types import Seconds, StepProgress, TrainTask

__all__ = ["EpochSteps", "Left", "UnderWay"]

LOOK_SECONDS = 1.0  # between two looks at the loss: each waits for the card


class Left(Exception):  # noqa: N818 - not an error: the way out of nested loops
    """The attempt was asked to leave at a batch."""


@dataclass(slots=True, kw_only=True)
class UnderWay:
    """How far an epoch has come, and what its numbers need of the steps that are done."""

    step: int = 0
    loss_sum: float = 0.0  # of the mean losses of those steps
    seconds: Seconds = 0.0


class EpochSteps:
    """Trains epochs step by step, the first one from where an attempt before has left it.

    Args:
        task: The attempt.
        link: To the driver.
        ranks: Of the gang.
        learner: Takes the steps.
        feed: Has the batches.
        every: Seconds of training between two times that the state is kept; 0 keeps it only
            where the attempt is asked to leave.
        keep: Keeps the state with what is under way; all ranks call it at the same step.
    """

    def __init__(
        self,
        task: TrainTask,
        link: RunLink,
        ranks: Ranks,
        learner: Learner,
        feed: Feed,
        *,
        every: Seconds,
        keep: Callable[[UnderWay], None],
    ) -> None:
        self._task, self._link, self._ranks = task, link, ranks
        self._learner, self._feed = learner, feed
        self._keep = keep
        self._keeper = Keeper(link, ranks, every=every, keep=self._keep_steps)
        self.begin(UnderWay())

    def begin(self, before: UnderWay) -> None:
        """Begin an epoch, with what is done of it."""
        self._before = before
        self._began = time.perf_counter() - before.seconds
        self._step = before.step
        self._loss_sum: Tensor | float = 0.0  # of this rank's parts

    @property
    def seconds(self) -> Seconds:
        """Of training since the epoch began, in all attempts at it that were kept."""
        return time.perf_counter() - self._began

    def train(self, epoch: int) -> float:
        """Take the steps that are left; the mean loss of all steps of the epoch.

        Raises:
            Left: The attempt was asked to leave at a batch.
            TrainingError: NAN_LOSS.
        """
        num_steps, loss, looked = self._feed.num_steps, None, -math.inf
        # Between the ends of epochs the first rank tells of its own samples.
        share = self._ranks.batch.effective_batch / self._ranks.share
        loader = self._feed.training(epoch, self._before.step)
        for batch in self.watched(loader, num_steps - self._step):
            self._loss_sum = self._loss_sum + self._learner.learn(batch)
            self._step += 1
            now = time.perf_counter()
            if now - looked >= LOOK_SECONDS or self._step == num_steps:
                own = float(self._loss_sum) * share
                loss, looked = (self._before.loss_sum + own) / self._step, now
                self.demand_finite(loss, f"at step {self._step} of {num_steps} in epoch {epoch}")
            if self._ranks.is_first:
                self._tell(epoch, loss)
        return self._summed() / num_steps

    def watched(self, loader: Any, times: int) -> Iterator[Batch]:
        """The batches of a loader; all ranks ask so many times whether to leave.

        Raises:
            Left: The attempt was asked to leave.
        """
        found = batches(loader)
        for _ in range(times):
            if self._keeper.must_leave(is_begun=self._step > self._before.step):
                raise Left
            batch = next(found, None)  # a rank with fewer of them only asks
            if batch is not None:
                yield batch
        for _ in found:  # ends the epoch of the loader
            raise AssertionError("a rank has more batches than it asked for")

    def demand_finite(self, loss: float, where: str) -> None:
        """Raise TrainingError (NAN_LOSS) where the loss is not finite."""
        if not math.isfinite(loss):
            raise not_finite(
                loss,
                where,
                why=(f"learning rate {self._learner.lr:.3g}, precision {self._learner.amp}",),
                fix=("lower lr0, or set grad_clip: 1.0, or amp: bf16 or fp32",),
            )

    def _keep_steps(self) -> None:
        self._keep(UnderWay(step=self._step, loss_sum=self._summed(), seconds=self.seconds))

    def _summed(self) -> float:
        """The mean losses of the steps so far, summed; of all ranks."""
        (own,) = self._ranks.summed(float(self._loss_sum))
        return self._before.loss_sum + own

    def _tell(self, epoch: int, loss: float | None) -> None:
        num_images = (self._step - self._before.step) * self._task.batch.effective_batch
        self._link.step(
            StepProgress(
                epoch=epoch,
                epochs=self._task.spec.settings.epochs,
                step=self._step,
                num_steps=self._feed.num_steps,
                images_per_second=num_images / (self.seconds - self._before.seconds),
                loss=loss,
            )
        )
