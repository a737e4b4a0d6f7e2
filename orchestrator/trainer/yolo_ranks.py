"""ultralytics' loop on one rank of several: its part of each batch, and what all ranks found."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.trainer.randomness import seed_all
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.step_cut import StepCut
from orchestrator.trainer.yolo_attempt import Attempt
from orchestrator.trainer.yolo_whole import NUM_DIVISORS
from orchestrator.types import StopMode

__all__ = ["Shared", "share_training", "share_validation"]

if TYPE_CHECKING:
    _Mixed = Any  # whichever trainer class follows in the order of resolution
else:
    _Mixed = object


class _Shares:
    """A batch sampler that gives a rank its part of each batch, in the order of ranks.

    A last batch with fewer pictures than ranks is left out: no rank is without a picture.
    """

    def __init__(self, inner: Any, ranks: Ranks, num_images: int) -> None:
        self._inner, self._ranks = inner, ranks
        rest = num_images % inner.batch_size
        self._length = len(inner) - (0 < rest < ranks.count)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._inner:
            if len(batch) >= self._ranks.count:
                part = self._ranks.part(len(batch))
                yield batch[part.start : part.stop]


class _Batches:
    """A batch sampler that gives a rank its part of the batches, each of them whole."""

    def __init__(self, inner: Any, ranks: Ranks) -> None:
        self._part = ranks.part(len(inner))
        self._inner = inner

    def __len__(self) -> int:
        return len(self._part)

    def __iter__(self) -> Iterator[Sequence[int]]:
        for number, batch in enumerate(self._inner):
            if number in self._part:
                yield batch


def share_training(loader: Any, ranks: Ranks) -> Any:
    """Give this rank its part of every batch of a loader that was made for one process.

    All ranks draw the order that one process would draw: ultralytics seeds the generator of a
    loader with the rank added to it, from -1 for a process alone.
    """
    loader.generator.manual_seed((loader.generator.initial_seed() - ranks.rank - 1) % (1 << 64))
    _exchange(loader, _Shares(loader.batch_sampler.sampler, ranks, len(loader.dataset)))
    loader.sampler.set_epoch = lambda epoch: None  # its generator goes on from epoch to epoch
    return loader


def share_validation(loader: Any, ranks: Ranks) -> Any:
    """Give this rank its part of the batches of a loader that was made for one process."""
    _exchange(loader, _Batches(loader.batch_sampler.sampler, ranks))
    return loader


def _exchange(loader: Any, sampler: Any) -> None:
    repeat = type(loader.batch_sampler)
    # a DataLoader refuses to exchange its sampler; ultralytics' own loader does it like this
    object.__setattr__(loader, "batch_sampler", repeat(sampler))


class Shared(_Mixed):
    """Mixed into a trainer class, before it."""

    attempt: Attempt
    ranks: int
    reduction: Reduction | None

    def _setup_ddp(self) -> None:
        """Nothing: the worker group made the process group."""

    def setup_model(self: Any) -> Any:
        """Begin with the weights of one process; the chance that follows is each rank's own."""
        if self.ranks == 1:
            return super().setup_model()
        seed_all(self.args.seed)
        found = super().setup_model()
        seed_all(self.args.seed + 1 + self.attempt.ranks.rank)
        return found

    def _build_train_pipeline(self: Any) -> None:
        alone = self.world_size
        if self.ranks > 1:
            self.world_size = self.ranks
            self.attempt.ranks.share_weights(self.model)
        super()._build_train_pipeline()
        self.world_size = alone

    def get_dataloader(
        self: Any, dataset_path: Any, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Validation takes twice a piece, as it takes twice a batch where the step is not cut.

        Of a gang every rank makes the loader of one process, and takes its part of it; rank 0 is
        the first to read the labels, and leaves what it found for the others.
        """
        batch, ranks = self.attempt.task.batch, self.attempt.ranks
        if mode == "val":
            alone = batch.effective_batch // max(self.world_size, 1)
            batch_size = max(1, batch_size // alone) * batch.micro_batch
        if ranks.count == 1:
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        size = batch.effective_batch if mode == "train" else batch_size
        with ranks.first_before_others():
            loader = super().get_dataloader(dataset_path, size, -1, mode)
        return (share_training if mode == "train" else share_validation)(loader, ranks)

    def images_of_step(self: Any) -> int:
        """Pictures of all ranks in the step under way: fewer in the last one of an epoch."""
        size = self.attempt.task.batch.effective_batch
        return min(size, len(self.train_loader.dataset) - self._step * size)

    def make_reduction(self: Any) -> Reduction | None:
        """What sums the gradients of a gang; None for one rank."""
        if self.ranks == 1:
            return None
        num_exchanged = 0 if self.args.task == "classify" else NUM_DIVISORS
        parameters, ddp = self.model.parameters(), self.attempt.ddp
        return Reduction(parameters, ddp, self.ranks, num_exchanged=num_exchanged)

    def make_cut(self: Any) -> StepCut:
        """How steps are cut. Averaged weights were copied from the model before: they are plain."""
        batch, ranks, ddp = self.attempt.task.batch, self.attempt.ranks, self.attempt.ddp
        return StepCut(
            self.model,
            batch.micro_batch,
            ranks,
            reduction=self.reduction,
            is_synced=ddp.sync_bn,
        )

    def _asked(self: Any) -> StopMode | None:
        mode = self.attempt.link.stop_requested()
        return self.attempt.ranks.agreed(mode)

    def _on_train_epoch_end(self: Any) -> None:
        if self.ranks > 1:  # every rank has its part of the loss items
            names, values = zip(*self.tloss.items(), strict=True)
            sums = self.attempt.ranks.summed(*map(float, values))
            self.tloss = {n: torch.tensor(value) for n, value in zip(names, sums, strict=True)}
