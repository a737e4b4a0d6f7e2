"""Batches of pictures in an order that can be repeated.

Which samples make a step, and how each is augmented, are functions of (seed, epoch, sample): not of
the number of loading processes, the cut of the step, or what was drawn before. So a resumed run
sees what the undisturbed one would have seen.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from orchestrator.errors import DataError, TrainingError
from orchestrator.trainer.pictures import PictureSet, read_picture
from orchestrator.trainer.randomness import host_state_kept, keyed_seed, seed_host
from orchestrator.types import BatchPlan, Cause

__all__ = ["Batch", "EpochOrder", "Mix", "PictureFolder", "batches", "close", "picture_loader"]

Key: TypeAlias = tuple[int, int]  # epoch, index of the sample
Batch: TypeAlias = tuple[Tensor, Tensor]  # pictures (N, 3, H, W), targets (N,) or (N, classes)
Mix: TypeAlias = Callable[[Tensor, Tensor], Batch]


class PictureFolder(Dataset[tuple[Tensor, int] | DataError]):
    """Samples by (epoch, index), augmented by a chance that depends on seed, epoch and index.

    Args:
        pictures: What to read.
        transform: From a PIL picture to a tensor (3, H, W).
        seed: Of the run.
    """

    def __init__(
        self, pictures: PictureSet, transform: Callable[[Image.Image], Tensor], seed: int
    ) -> None:
        self.pictures = pictures
        self._transform = transform
        self._seed = seed
        self._decoded: list[np.ndarray[Any, np.dtype[np.uint8]]] = []

    def keep_decoded(self, threads: int) -> None:
        """Decode every picture once, now; loading processes that are forked later share them.

        Raises:
            DataError: A picture cannot be read.
        """
        with ThreadPoolExecutor(max(1, threads)) as pool:
            images = pool.map(read_picture, self.pictures.paths)
            self._decoded = [np.asarray(image) for image in images]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | DataError:
        epoch, index = key
        try:
            if self._decoded:
                image = Image.fromarray(self._decoded[index])
            else:
                image = read_picture(self.pictures.paths[index])
        except DataError as error:
            return error  # raised in a loading process, it would arrive without its parts
        seed_host(keyed_seed(self._seed, "augment", epoch, index))
        return self._transform(image), self.pictures.labels[index]


class EpochOrder(Sampler[list[Key]]):
    """The samples of each step of an epoch, for one rank; set `epoch` and `first` before iterating.

    Every epoch is a new permutation, keyed by (seed, epoch). A rest smaller than the effective
    batch is left out: the effective batch is exact, and the next epoch leaves out others. What a
    step is made of does not depend on the number of ranks, which take their parts in order.
    """

    def __init__(self, num_samples: int, *, batch: BatchPlan, seed: int, rank: int = 0) -> None:
        self.epoch, self.first = 1, 0
        self.num_samples = num_samples
        self._batch = batch.effective_batch
        self._begin, self._share = batch.begin(rank), batch.share(rank)
        self._seed = seed

    def __len__(self) -> int:
        return self.num_samples // self._batch

    def __iter__(self) -> Iterator[list[Key]]:
        chance = torch.Generator().manual_seed(keyed_seed(self._seed, "order", self.epoch))
        order = torch.randperm(self.num_samples, generator=chance).tolist()
        for step in range(self.first, len(self)):
            begin = step * self._batch + self._begin
            yield [(self.epoch, index) for index in order[begin : begin + self._share]]


def picture_loader(
    pictures: PictureFolder,
    order: Sampler[list[Key]] | Sequence[list[Key]],
    *,
    workers: int,
    pin_memory: bool,
    mix: Mix | None = None,
) -> DataLoader[Any]:
    """A loader of batches in the given order; its processes live as long as it does.

    Args:
        pictures: The samples.
        order: Samples of each batch.
        workers: Loading processes; 0 loads in this one.
        pin_memory: For copies to a card that overlap with its work.
        mix: Mixes a batch (mixup, CutMix) after augmentation.
    """
    return DataLoader(
        pictures,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=_Collate(mix),
        generator=torch.Generator(),  # else every epoch draws from the generator of the training
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield the batches of one epoch; what loading draws does not touch this process's chance.

    Raises:
        DataError: A picture cannot be read.
        TrainingError: A loading process died.
    """
    with warnings.catch_warnings():  # 3.12 warns of fork beside threads; these children only load
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        iterator = iter(loader)
    while True:
        with nullcontext() if loader.num_workers else host_state_kept():
            try:
                batch = next(iterator, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise TrainingError(
                    "a data loading process died",
                    cause=Cause.HOST_OUT_OF_MEMORY,
                    code="E2111",
                    why=(str(error).splitlines()[0],),
                    fix=("use fewer workers, or cache: false if it is ram",),
                ) from error
        if batch is None:
            return
        if isinstance(batch, DataError):
            raise batch
        yield batch


def close(loader: DataLoader[Any]) -> None:
    """End the loading processes now.

    Left to the garbage collector, which may find the loader in a cycle with an error, each
    process costs 5 seconds: its queue is finalised before it is asked to end.
    """
    iterator = loader._iterator  # no public way ends the processes of a persistent loader
    if iterator is not None and loader.num_workers:
        iterator._shutdown_workers()  # type: ignore[attr-defined]  # of the iterator with processes
    loader._iterator = None


class _Collate:
    def __init__(self, mix: Mix | None) -> None:
        self._mix = mix

    def __call__(self, samples: list[tuple[Tensor, int] | DataError]) -> Batch | DataError:
        for sample in samples:
            if isinstance(sample, DataError):
                return sample
        images, labels = default_collate(samples)
        # The chance of mixing goes on from the last sample's key: a function of the batch alone.
        return (images, labels) if self._mix is None else self._mix(images, labels)
