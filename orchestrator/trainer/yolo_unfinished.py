"""ultralytics' loop within an epoch: what is done of it kept, and passed over when it goes on."""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.trainer import yolo_state
from orchestrator.trainer.options_save import save_seconds
from orchestrator.trainer.unfinished import Keeper, is_of
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.trainer.yolo_attempt import Attempt, Leave

__all__ = ["Unfinished"]

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Mixed = Any  # whichever trainer class follows in the order of resolution
else:
    _Mixed = object


class _Done(dict[str, Any]):
    """In the place of a batch that an attempt before has trained on."""


class Unfinished(_Mixed):
    """Mixed into a trainer class, before it.

    ultralytics' loop counts its steps from the beginning of an epoch, and its warm-up goes by that
    count. So the loop runs through the steps that are done, with nothing in them.
    """

    attempt: Attempt
    _step: int
    _epoch_begin: float
    _num_done = 0  # steps of the epoch that an attempt before has done
    before_validation: dict[str, Any] | None = None  # the state of chance, while it validates
    _seconds_before = 0.0  # that it took for them

    def _on_train_start(self: Any) -> None:
        every, _ = save_seconds(self.attempt.task.spec.settings.options)
        link, ranks = self.attempt.link, self.attempt.ranks
        self._keeper = Keeper(link, ranks, every=every, keep=self._keep)

    def state_to_begin_with(self: Any) -> Mapping[str, Any] | None:
        """What was kept of the next epoch, if it is of this training; else the epoch before."""
        kept = self.attempt.kept
        if kept is not None and is_of(kept, self._expected()):
            under_way = kept["under_way"]
            self._num_done, self._seconds_before = under_way["step"], under_way["seconds"]
            log.info("going on after step %d of %d", self._num_done, len(self.train_loader))
            self._pass_over(under_way["losses"])
            return kept
        return self.attempt.state

    def _begin_epoch(self: Any) -> None:
        if self.epoch > self.start_epoch:
            self._num_done, self._seconds_before = 0, 0.0
        self._epoch_begin = time.monotonic() - self._seconds_before

    def leave_if_asked(self: Any) -> None:
        """Keep what is done of the epoch when it is time to, and leave if that was asked.

        Raises:
            Leave: It was.
        """
        if self._keeper.must_leave(is_begun=self._step > self._num_done):
            raise Leave

    def _keep(self: Any) -> None:
        """Keep the state within an epoch: all that an attempt needs to go on from there."""
        ranks = self.attempt.ranks
        names, values = zip(*self.tloss.items(), strict=True)
        losses = [*map(float, values)]
        if self.before_validation is None:  # until then every rank has its part of the loss items
            losses = ranks.summed(*losses)
        if not ranks.is_first:
            return
        self.write_best()  # what is kept has no weights of the epoch before
        csv = self.csv.read_text(encoding="utf-8") if self.csv.exists() else ""
        state = yolo_state.capture(self, best=self.attempt.best, results=csv, epoch=self.epoch)
        state |= {
            "finished": False,
            "random": self.before_validation or state["random"],
            "expected": self._expected(),
            "under_way": {
                "step": self._step,
                "losses": dict(zip(names, losses, strict=True)),
                "seconds": time.monotonic() - self._epoch_begin,
            },
        }
        with on_host(self.attempt.device):
            self.attempt.link.save(
                self.epoch,
                lambda file: yolo_state.write(state, file),
                is_best=False,
                check=yolo_state.check,
                step=self._step,
            )
        log.info("kept %d of %d steps of the epoch", self._step, len(self.train_loader))

    def _expected(self: Any) -> dict[str, Any]:
        """What an epoch under way has to be of, or its steps would be others."""
        return {
            "checkpoint": self.attempt.base,
            "batch": self.attempt.task.batch.effective_batch,
            "pictures": len(self.train_loader.dataset),
        }

    # ---- passing over what is done

    def _pass_over(self: Any, losses: Mapping[str, float]) -> None:
        """Let the first epoch's loop go through so many steps without a batch."""
        part = float(self.attempt.ranks.is_first)  # of all ranks, as the losses were summed
        items = {name: torch.tensor(part * value) for name, value in losses.items()}
        size = self.args.imgsz
        done = _Done(img=torch.empty(1, 0, size, size), cls=torch.empty(0, 1), items=items)
        _give_first(self.train_loader, [done] * self._num_done)

    def make_passing(self: Any) -> None:
        """Stand before the model's step until every step that is done has been passed over."""
        if self._num_done:
            self.model.forward = _Passing(self.model, self._num_done)

    @property
    def is_passing(self) -> bool:
        """Whether the next step was done by an attempt before."""
        return self._step < self._num_done

    def optimizer_step(self: Any) -> None:
        """Take a step, unless it was taken."""
        if not self.is_passing:
            super().optimizer_step()

    def plot_training_samples(self: Any, batch: Any, ni: int) -> None:
        """Draw a batch, unless there is none."""
        if not isinstance(batch, _Done):
            super().plot_training_samples(batch, ni)


class _Passing:
    def __init__(self, model: Any, times: int) -> None:
        self._model, self._within, self._times = model, model.forward, times

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(batch, _Done):
            return self._within(batch, *args, **kwargs)
        self._times -= 1
        if not self._times:
            self._model.forward = self._within
        device = next(self._model.parameters()).device
        return torch.zeros((), device=device, requires_grad=True), batch["items"]


def _give_first(loader: Any, batches: list[Any]) -> None:
    """Let a loader's first epoch begin with these, in the place of as many of its own."""
    kind = type(loader)

    class GivingFirst(kind):  # type: ignore[misc, valid-type]  # ultralytics', or one made of it
        def __iter__(self) -> Iterator[Any]:
            first, batches[:] = list(batches), []
            yield from first
            within = super().__iter__()
            for _ in range(len(self) - len(first)):
                yield next(within)

    loader.__class__ = GivingFirst
