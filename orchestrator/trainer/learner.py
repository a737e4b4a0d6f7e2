"""A classifier that learns by steps: model, averaged weights, optimizer, scaler and schedule."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.plan.workload import OptimizerState
from orchestrator.trainer.checkpointing import (
    can_checkpoint,
    checkpoint_timm,
    statistics_still,
)
from orchestrator.trainer.classifier import make_optimizer, make_schedule, precision
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.loading import Batch
from orchestrator.trainer.microbatch import PieceLoss, cut, even_sizes, run_pieces
from orchestrator.trainer.offers import offer_classifier, offer_optimizer
from orchestrator.trainer.optimizer_place import HostMemory, placed
from orchestrator.trainer.options_ddp import DdpOptions, ddp_options
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.pack import own_state
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.rates import restore_under_own_rates, steps_done
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.step_cut import StepCut
from orchestrator.trainer.step_state import StepState
from orchestrator.trainer.update import UpdateRoom
from orchestrator.types import Bytes, TrainSettings

__all__ = ["Learner"]


class Learner:
    """Takes optimizer steps, each cut into micro-batches, and measures what was learnt.

    Args:
        model: On the host.
        settings: Of the run.
        options: Of the run.
        device: Where to compute.
        micro_batch: Most samples of one forward pass.
        steps_per_epoch: Optimizer steps.
        governor: Cuts smaller where memory runs out; None lets the error through.
        host: Where the optimizer's state lies if the options want it on the host.
        ranks: Of the gang; each learns from its share of a batch. None is one rank.
    """

    def __init__(  # noqa: PLR0913 - the parts of a training, all but two of them needed
        self,
        model: nn.Module,
        settings: TrainSettings,
        options: TimmOptions,
        *,
        device: torch.device,
        micro_batch: int,
        steps_per_epoch: int,
        governor: Governor | None = None,
        host: HostMemory | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._device = device
        self._ranks = ranks
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        ddp, _ = ddp_options(settings.options)
        self.model, self._reduction = self._placed(model, ddp)
        self._grad_clip = options.grad_clip
        # Mixing smooths the labels itself, before it mixes them.
        smoothing = 0.0 if options.mixup or options.cutmix else options.label_smoothing
        self._loss = partial(functional.cross_entropy, label_smoothing=smoothing)
        self._dtype = precision(settings.amp, device)
        host = host or HostMemory()
        self._optimizer = placed(
            make_optimizer(self.model, settings, options),
            OptimizerState(options.optimizer_state),
            host,
        )
        self._schedule = make_schedule(self._optimizer, settings, options, steps_per_epoch)
        self._scaler = self._make_scaler()
        self._ema = self._averaged(options.ema_decay)
        # After the averaged weights were copied: nothing of them is computed twice or together.
        self._cut = StepCut(
            self.model, micro_batch, ranks,
            reduction=self._reduction, is_told=governor is not None, is_synced=ddp.sync_bn,
        )  # fmt: skip
        self._name, self._imgsz = settings.model, settings.imgsz
        self._compute: Callable[[Tensor], Tensor] = self.model
        if options.compile:
            self._compute = torch.compile(self.model)
        self._norms: tuple[nn.Module, ...] = ()
        if options.grad_checkpointing:
            self.checkpoint()
        self._num_steps = 0
        self._steps_per_epoch = steps_per_epoch
        self._governor = governor
        if governor is not None:
            governor.can_repeat = self._cut.can_repeat
            self._step_state = StepState(self.model, device, self._reduction)
            self._update_room = UpdateRoom(self._optimizer, governor)
            offer_optimizer(governor.rungs, self._optimizer, host)
            half, is_free = precision("auto", device), not options.grad_checkpointing
            offer_classifier(
                governor.rungs,
                half=half if self._dtype is torch.float32 else torch.float32,
                halve=partial(self.halve, half),
                checkpoint=self.checkpoint if is_free and can_checkpoint(self.model) else None,
            )

    def _placed(self, model: nn.Module, ddp: DdpOptions) -> tuple[nn.Module, Reduction | None]:
        """The model where it trains, and what sums its gradients over several ranks."""
        placed = model.to(self._device).to(memory_format=self._layout)
        if self._ranks is None or self._ranks.count == 1:
            return placed, None
        self._ranks.share_weights(placed)
        return placed, Reduction(placed.parameters(), ddp, self._ranks.count)

    def _averaged(self, decay: float) -> ModelEmaV3 | None:
        """Averaged weights, if the run has some."""
        return ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None

    def halve(self, dtype: torch.dtype) -> None:
        """Compute in half precision from the next forward pass on; weights stay as they are."""
        self._dtype = dtype
        self._scaler = self._make_scaler()

    def checkpoint(self) -> None:
        """Compute stages again in the backward pass, from the next forward pass on.

        Raises:
            ConfigError: E1122, timm does not offer it for this model.
        """
        self._norms = checkpoint_timm(self.model, self._name)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def amp(self) -> str:
        """The precision that is computed in, for people."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def sent_bytes(self) -> Bytes:
        """Bytes of gradients that this rank gave to the sums of its last step."""
        return 0 if self._reduction is None else self._reduction.num_bytes

    def learn(self, batch: Batch) -> Tensor:
        """Take one optimizer step on a batch (N, 3, H, W); return its detached mean loss.

        Of a gang, the batch is this rank's share, and the loss its part of the whole batch's: the
        sum over the ranks is the mean. Does not wait for the card, except as the scaler of fp16
        has to.
        """
        if not self.model.training:  # telling every module takes 0.1 ms and more
            self.model.train()
        self._optimizer.zero_grad()
        if self._governor is None:
            loss = self._gradients(batch, self._cut.planned)
        else:
            loss = self._governor.step(partial(self._gradients, batch), self._step_state)
            self._update_room.demand()
        if self._reduction is not None:
            self._reduction.complete()
        if self._grad_clip:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._num_steps += 1
        if self._ema is not None:
            self._ema.update(self.model, step=self._num_steps)
        self._schedule.step_update(self._num_steps)
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure the averaged weights (the model's own without EMA); every sample counts once.

        Of a gang, each rank is given other samples; all get the measures of all samples.
        """
        model = self._judged().eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        num_samples = 0.0
        with torch.no_grad():
            for batch in batches:
                judge = partial(self._sums, model, batch)
                size = len(batch[1])
                sums += (
                    judge(size) if self._governor is None else self._governor.validate(judge, size)
                )
                num_samples += size
        if self._ranks is not None:
            *whole, num_samples = self._ranks.summed(*sums.tolist(), num_samples)
            sums = torch.tensor(whole)
        loss_sum, top1, top5 = sums.tolist()
        return {
            "val/loss": loss_sum / num_samples,
            "metrics/accuracy_top1": top1 / num_samples,
            "metrics/accuracy_top5": top5 / num_samples,
        }

    def average_statistics(self) -> None:
        """Let all ranks of a gang judge and save one and the same model, from here on."""
        if self._ranks is not None:
            models = [self.model] if self._ema is None else [self.model, self._ema.module]
            self._ranks.average_statistics(models)

    def weights(self) -> dict[str, Tensor]:
        """The weights that `evaluate` judges, by name."""
        return dict(self._judged().state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; loads with `weights_only=True`."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self._ema is None else self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "num_steps": self._num_steps,
            "steps_per_epoch": self._steps_per_epoch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        restore_under_own_rates(self._optimizer, state["optimizer"])
        own_state(self._optimizer)
        if state["scaler"]:  # of an attempt that had one: half precision may have come since
            self._scaler.load_state_dict(state["scaler"])
        self._num_steps = steps_done(state, self._steps_per_epoch)
        self._schedule.step_update(self._num_steps)

    def _gradients(self, batch: Batch, micro_batch: int) -> Tensor:
        """Gradients of the whole batch, from pieces; returns its detached mean loss."""
        num_samples, reduction = len(batch[1]), self._reduction
        total = num_samples if self._ranks is None else self._ranks.batch.effective_batch
        if reduction is not None:
            reduction.begin()
        pieces = self._cut.pieces(num_samples, total, micro_batch)
        with self._cut.step():
            step = run_pieces(
                pieces.of(batch, cut),
                self._cut.forward(self._forward, pieces),
                backward=self._backward,
                total=total,
                around=self._cut.around(reduction.around if reduction else None, pieces),
            )
        return step.value

    def _sums(self, model: nn.Module, batch: Batch, size: int) -> Tensor:
        """Summed loss, and how many are right as first and within five, of a validation batch."""
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        for piece in cut(batch, even_sizes(len(batch[1]), size)):
            assert isinstance(piece, tuple | list)
            images, labels = self._to_device((piece[0], piece[1]))
            with self._autocast():
                logits = model(images).float()
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack([loss, top[:, 0].sum(), top.sum()])
        return sums

    def _forward(self, piece: Any) -> PieceLoss:
        images, targets = self._to_device(piece)
        with self._autocast():
            logits = self._compute(images)
        return PieceLoss(value=self._loss(logits.float(), targets), divisor=float(len(images)))

    def _backward(self, loss: Tensor) -> None:
        with statistics_still(self._norms):
            self._scaler.scale(loss).backward()

    def _make_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where fp16 is computed in, whose gradients underflow without."""
        return torch.amp.GradScaler(self._device.type, enabled=self._dtype is torch.float16)

    def _judged(self) -> nn.Module:
        return self.model if self._ema is None else self._ema.module

    def _to_device(self, batch: Batch) -> Batch:
        images, targets = batch
        return (
            images.to(self._device, non_blocking=True, memory_format=self._layout),
            targets.to(self._device, non_blocking=True),
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type,
            dtype=None if self._dtype is torch.float32 else self._dtype,
            enabled=self._dtype is not torch.float32,
        )
