"""What ranks do in tests of gangs, in processes of their own."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
    fp16_compress_hook,
)
from torch.nn.parallel import DistributedDataParallel

from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.options_timm import timm_options
from orchestrator.trainer.ranks import joined
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.step_state import StepState
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, Card, CheckpointRef, Scalar, StopMode, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of

__all__ = [
    "TimmFit",
    "emulated_fit",
    "fitted",
    "gradients",
    "plan_of",
    "reduced",
    "repeated",
    "timm_fit",
    "timm_gradients",
]

Arrays = dict[str, Any]  # of numpy, which need no shared memory to travel


def arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def gradients(model: nn.Module) -> Arrays:
    return {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}


def plan_of(batch: int, world_size: int, micro_batch: int) -> BatchPlan:
    return BatchPlan(effective_batch=batch, world_size=world_size, micro_batch=micro_batch)


def timm_gradients(
    rank: int, name: str, batch: BatchPlan, options: dict[str, Scalar], folder: str
) -> tuple[Arrays, float, int]:
    """Gradients of one step, this rank's part of the loss, and the number of buckets."""
    settings = TrainSettings(model=name, data="", imgsz=32, epochs=1, options=options)
    task = replace(attempt_of(settings, Path(folder) / str(rank), batch=batch), rank=rank)
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(batch.effective_batch, 3, 32, 32, generator=chance)
    labels = torch.randint(0, 5, (batch.effective_batch,), generator=chance)
    torch.manual_seed(rank)  # each rank makes weights of its own, as long as none are shared
    model = timm.create_model(name.removeprefix("timm/"), num_classes=5)
    model = freeze_batch_norm_2d(model)
    for module in model.modules():  # as after some training: statistics that are not 0 and 1
        if isinstance(module, FrozenBatchNormAct2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    with joined(task, ddp_options(options)[0], is_cuda=False) as ranks:
        learner = Learner(
            model,
            settings,
            timm_options(options),
            device=torch.device("cpu"),
            micro_batch=batch.micro_batch,
            steps_per_epoch=2,
            ranks=ranks,
        )
        begin = batch.begin(rank)
        mine = slice(begin, begin + ranks.share)
        loss = learner.learn((images[mine], labels[mine]))
        reduction = learner._reduction
        count = 0 if reduction is None else reduction.num_buckets
        return gradients(model), float(loss), count


def timm_fit(
    rank: int,
    folder: str,
    settings: TrainSettings,
    batch: BatchPlan,
    stop_at: int | None,
    resume_from: CheckpointRef | None,
) -> "TimmFit":
    """A whole attempt; rank 0 is asked to leave at the batch with this number."""

    def stop(link: RecordingLink) -> StopMode | None:
        is_asked = stop_at is not None and rank == 0 and link.num_asked > stop_at
        return StopMode.AT_BATCH if is_asked else None

    link = RecordingLink(Path(folder) / "checkpoints", stop_when=stop, resume_from=resume_from)
    task = replace(attempt_of(settings, Path(folder), batch=batch), rank=rank)
    device = CpuDevice()
    with device.session():
        outcome, metrics = TimmTrainer().fit(task, device, link)
    return outcome, dict(metrics), link.reported, link.saved, link.num_asked


TimmFit = tuple[Any, dict[str, float], list[Any], list[CheckpointRef], int]


def reduced(rank: int, options: dict[str, Scalar]) -> tuple[Arrays, Arrays, int]:
    """Sums of gradients by ours and means by PyTorch's data-parallel model; bytes that travel."""
    hooks = {"fp16": fp16_compress_hook, "bf16": bf16_compress_hook}
    found, num_bytes = [], 0
    for is_ours in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.Linear(20, 3))
        chance = torch.Generator().manual_seed(rank)
        images = torch.randn(5, 40, generator=chance)
        if is_ours:
            ours = Reduction(model.parameters(), ddp_options(options)[0], 2)
            ours.begin()
            with ours.sending():
                (model(images).square().mean() / 2).backward()
            ours.complete()
            num_bytes = ours.num_bytes
        else:
            wrapped = DistributedDataParallel(model)
            hook = hooks.get(str(options.get("ddp_compression")))
            if hook is not None:
                wrapped.register_comm_hook(None, hook)
            wrapped(images).square().mean().backward()
        found.append(gradients(model))
    return found[0], found[1], num_bytes


def fitted(rank: int, options: dict[str, Scalar], num_steps: int) -> tuple[float, float, int]:
    """A linear map is learnt by both ranks, of other samples each: first and last loss, bytes."""
    torch.manual_seed(0)
    truth = torch.randn(24, 32)
    model = nn.Linear(32, 24)
    reduction = Reduction(model.parameters(), ddp_options(options)[0], 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    chance = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(num_steps):
        images = torch.randn(64, 32, generator=chance)
        reduction.begin()
        loss = (model(images) - images @ truth.T).square().mean()
        with reduction.sending():
            (loss / 2).backward()
        reduction.complete()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1], reduction.num_bytes


def repeated(rank: int) -> tuple[Arrays, Arrays, list[str]]:
    """A step that rank 1 cannot end, in its first piece or in the last backward; then the step."""
    found = []
    for fails in (None, "forward", "backward"):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(6)))
        images = torch.full((2, 300), float(rank + 1))
        options = ddp_options({"ddp_bucket_mb": 1})[0]
        reduction = Reduction(model.parameters(), options, 2, num_exchanged=3)
        state = StepState(model, torch.device("cpu"), reduction)
        state.keep()
        if fails:
            _failing(model, reduction, images, fails if rank else "")
            state.restore()
        reduction.begin()
        total = reduction.exchanged(torch.full((3,), rank + 1.0))
        with reduction.sending():
            model(images).sum().backward()
        reduction.complete()
        found.append(gradients(model) | {"total": total.numpy()})
    return found[0], found[1], [n for n in found[0] if not np.array_equal(found[1][n], found[2][n])]


def _failing(model: nn.Sequential, reduction: Reduction, images: Tensor, fails: str) -> None:
    reduction.begin()
    if fails == "forward":
        return
    reduction.exchanged(torch.ones(3))
    with suppress(MemoryError), reduction.sending():
        if fails == "backward":
            first, last = model[:4], model[4:]
            middle = first(images)
            middle.register_hook(_no_memory)
            last(middle).sum().backward()
        else:
            model(images).sum().backward()


def _no_memory(gradient: Tensor) -> Tensor:
    raise MemoryError


def emulated_fit(
    rank: int, folder: str, settings: TrainSettings, batch: BatchPlan, budget: int
) -> tuple[str, int, int]:
    """A training on an emulated card: how it ended, its peak, and what is alive after it."""
    card = Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True)
    device = EmulatedDevice(card, budget)
    task = replace(attempt_of(settings, Path(folder) / str(rank), batch=batch), rank=rank)
    link = RecordingLink(Path(folder) / "checkpoints")
    with device.session():
        outcome, _ = TimmTrainer().fit(task, device, link)
    return outcome.value, device.peak_bytes(), len(link.saved)
