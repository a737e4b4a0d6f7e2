"""What ranks whose BatchNorm works together do in tests, in processes of their own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.options_timm import timm_options
from orchestrator.trainer.ranks import joined
from orchestrator.types import BatchPlan, Scalar, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.gang_work import Arrays, arrays, gradients

__all__ = ["ON", "SIZE", "Stepped", "stepped"]

ON: dict[str, Scalar] = {"ddp_sync_bn": True, "ddp_bucket_mb": 1}
SIZE = 64
CLASSES = 5
Stepped = tuple[Arrays, Arrays, float, list[str], list[tuple[int, int]]]


def pictures(num: int) -> tuple[Tensor, Tensor]:
    """Brighter from one to the next: parts of them have other means."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(num, 3, SIZE, SIZE, generator=chance)
    images = images * torch.linspace(0.5, 2.0, num).view(-1, 1, 1, 1)
    return images + torch.linspace(-1.0, 2.0, num).view(-1, 1, 1, 1), torch.randint(
        0, CLASSES, (num,), generator=chance
    )


def stepped(
    rank: int,
    name: str,
    batch: BatchPlan,
    options: dict[str, Scalar],
    folder: str,
    order: Sequence[int] | None = None,
    fails: str | None = None,
    *,
    is_cuda: bool = False,
) -> Stepped:
    """One step: gradients, running statistics, this rank's part of the loss, keys of the state.

    Args:
        rank: Of this process.
        name: Of the model.
        batch: How it is shared and cut.
        options: Of the run.
        folder: For files.
        order: Of the samples. One rank whose pieces are what the ranks of a gang see at once has
            them in another order.
        fails: Where the last rank runs out of memory while pieces have more than one sample.
        is_cuda: Each rank has a card.
    """
    settings = TrainSettings(model=name, data="", imgsz=SIZE, epochs=1, options=options)
    task = replace(attempt_of(settings, Path(folder) / str(rank), batch=batch), rank=rank)
    images, labels = pictures(batch.effective_batch)
    if order is not None:
        images, labels = images[list(order)], labels[list(order)]
    torch.manual_seed(rank)  # each rank makes weights of its own, as long as none are shared
    model = timm.create_model(name.removeprefix("timm/"), num_classes=CLASSES)
    link, device = RecordingLink(Path(folder) / f"c{rank}"), CpuDevice()
    with joined(task, ddp_options(options)[0], is_cuda=is_cuda) as ranks:
        governor = Governor(task, device, link, MemoryOptions(), agree=ranks.most_and_least)
        learner = Learner(
            model,
            settings,
            timm_options(options),
            device=torch.device("cuda", rank) if is_cuda else torch.device("cpu"),
            micro_batch=batch.micro_batch,
            steps_per_epoch=2,
            ranks=ranks,
            governor=governor,
        )
        if fails and rank == ranks.count - 1:
            _fail(model, fails)
        governor.epoch_begins(1)
        begin = batch.begin(rank)
        mine = slice(begin, begin + ranks.share)
        loss = learner.learn((images[mine], labels[mine]))
        kinds = {type(m).__name__ for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
        assert not any("Sync" in kind for kind in kinds)
        cuts = [(recut.old, recut.new) for recut in link.recuts]
        keys = list(learner.state()["model"])
        model.cpu()
        return gradients(model), running(model), float(loss), keys, cuts


def _fail(model: nn.Module, where: str) -> None:
    """Run out of memory in the middle of the model, where other ranks wait."""

    def no_memory(tensor: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def hook(layer: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        if len(found) > 1 and where == "forward":
            no_memory(found)
        if len(found) > 1 and where == "backward":
            found.register_hook(no_memory)  # type: ignore[no-untyped-call]

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    layers[len(layers) // 2].register_forward_hook(hook)


def running(model: nn.Module) -> Arrays:
    return arrays({n: b for n, b in model.named_buffers() if "running" in n or "tracked" in n})
