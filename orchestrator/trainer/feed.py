"""The batches that one run of a classifier trains on and is validated with."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import psutil
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from orchestrator.errors import DataError
from orchestrator.trainer.loading import EpochOrder, Mix, PictureFolder, close, picture_loader
from orchestrator.trainer.pictures import PictureSet, decoded_bytes
from orchestrator.trainer.ranks import Ranks
from orchestrator.types import TrainTask

__all__ = ["Feed"]

log = logging.getLogger(__name__)

Transform: TypeAlias = Callable[[Image.Image], Tensor]


class Feed:
    """Loaders of training and validation.

    Args:
        task: Says the batch, the seed, the workers and the cache.
        ranks: Each takes its part of every step, and of the validation.
        sets: Pictures of training and of validation.
        transforms: Of training and of validation.
        mix: Mixes a batch of training.
        is_fresh: Read every header first, so that a damaged file is named before the first step.
        pin_memory: For copies to a card.

    Raises:
        DataError: A picture cannot be read, or there are fewer of them than a step takes.
    """

    def __init__(
        self,
        task: TrainTask,
        ranks: Ranks,
        sets: tuple[PictureSet, PictureSet],
        transforms: tuple[Transform, Transform],
        *,
        mix: Mix | None,
        is_fresh: bool,
        pin_memory: bool,
    ) -> None:
        batch, settings = task.batch, task.spec.settings
        self._order = EpochOrder(len(sets[0]), batch=batch, seed=settings.seed, rank=ranks.rank)
        if not len(self._order):
            raise DataError(
                f"batch {batch.effective_batch} is more than the {len(sets[0])} training pictures",
                code="E3106",
                fix=(f"batch: at most {len(sets[0])}",),
            )
        workers = min(settings.workers, _num_cpus())
        folders = [
            PictureFolder(pictures, transform, settings.seed)
            for pictures, transform in zip(sets, transforms, strict=True)
        ]
        _examine(folders, is_cached=settings.cache == "ram", is_fresh=is_fresh)
        self._train = picture_loader(
            folders[0], self._order, workers=workers, pin_memory=pin_memory, mix=mix
        )
        size = 2 * batch.micro_batch  # without gradients, what trains one piece validates two
        keys = [(0, index) for index in ranks.part(len(sets[1]))]
        once = [keys[begin : begin + size] for begin in range(0, len(keys), size)]
        self._num_validations = -(-len(ranks.part_of(0, len(sets[1]))) // size)
        self.validation: DataLoader[Any] = picture_loader(
            folders[1], once, workers=workers, pin_memory=pin_memory
        )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self._order)

    @property
    def num_validations(self) -> int:
        """Batches of a validation on the rank that has most of them."""
        return self._num_validations

    @property
    def num_samples(self) -> int:
        """Pictures of training."""
        return self._order.num_samples

    def training(self, epoch: int, first: int = 0) -> DataLoader[Any]:
        """The loader, set to the order of this epoch without its first steps."""
        self._order.epoch, self._order.first = epoch, first
        return self._train

    def close(self) -> None:
        """End the loading processes."""
        close(self._train)
        close(self.validation)


def _examine(folders: list[PictureFolder], *, is_cached: bool, is_fresh: bool) -> None:
    if not (is_cached or is_fresh):
        return  # the headers were read when the run began
    threads = min(16, 4 * _num_cpus())  # reading headers waits for the disk, not for the CPU
    need = sum(decoded_bytes(folder.pictures, threads) for folder in folders)
    free = psutil.virtual_memory().available
    if is_cached and need > free / 2:
        log.warning(
            "cache: ram would take %.1f of %.1f GiB free; pictures are read from disk",
            need / 2**30,
            free / 2**30,
        )
    elif is_cached:
        for folder in folders:
            folder.keep_decoded(threads)


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
