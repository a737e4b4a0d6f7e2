"""A classifier that learns by steps while its weights are split over the ranks of a gang."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.trainer import sharding
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.loading import Batch
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_ddp import DdpOptions, Shard
from orchestrator.trainer.rates import steps_done
from orchestrator.trainer.reduction import Reduction

__all__ = ["ShardedLearner"]


class ShardedLearner(Learner):
    """Learns what `Learner` learns; its state is that of `Learner`, whole, on every rank.

    Made without a governor: a rank alone can repeat no step. All ranks call every method alike,
    those that read included.
    """

    _averages: sharding.Averages | None = None

    def __init__(self, *given: Any, host: HostMemory | None = None, **named: Any) -> None:
        self._host = host or HostMemory()
        super().__init__(*given, host=host, **named)

    def _placed(self, model: nn.Module, ddp: DdpOptions) -> tuple[nn.Module, Reduction | None]:
        assert self._ranks is not None
        sharding.check_shares(self._ranks.batch)
        self._ranks.share_weights(model)
        sharding.split(model, self._ranks, self._device, to_host=ddp.shard is Shard.HOST)
        return model, None

    def _averaged(self, decay: float) -> None:
        self._averages = sharding.Averages(self.model, decay) if decay else None

    def learn(self, batch: Batch) -> Tensor:
        """As `Learner.learn`."""
        loss = super().learn(batch)
        if self._averages is not None:
            self._averages.update(self._num_steps)
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """As `Learner.evaluate`; ranks may differ by one batch."""
        with self._judging():
            return super().evaluate(self._in_step(batches))

    def weights(self) -> dict[str, Tensor]:
        """The weights that `evaluate` judges, by name, whole, on the host."""
        with self._judging():
            return dict(sharding.gathered(self.model.state_dict(), self._host))

    def state(self) -> dict[str, Any]:
        """As `Learner.state`, whole, on the host."""
        own = super().state()
        return {
            **own,
            "model": sharding.gathered(own["model"], self._host),
            "ema": None if self._averages is None else self.weights(),
            "optimizer": sharding.gathered(own["optimizer"], self._host),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of any number of ranks, split or not."""
        sharding.put(self.model, state["model"])
        if self._averages is not None:
            with self._averages.in_place():
                sharding.put(self.model, state["ema"])
        sharding.put_optimizer(self._optimizer, state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._num_steps = steps_done(state, self._steps_per_epoch)
        self._schedule.step_update(self._num_steps)

    def _judging(self) -> Any:
        return nullcontext() if self._averages is None else self._averages.in_place()

    def _in_step(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches; a rank without another one computes along with those that have one."""
        assert self._ranks is not None
        found = iter(batches)
        while True:
            batch = next(found, None)
            if not self._ranks.most_and_least(int(batch is not None), 0)[0]:
                return
            if batch is None:
                with self._autocast():
                    self.model(torch.zeros(1, 3, self._imgsz, self._imgsz, device=self._device))
            else:
                yield batch

    def _backward(self, loss: Tensor) -> None:
        assert self._ranks is not None
        super()._backward(loss * self._ranks.count)  # what ranks have is averaged, not summed
