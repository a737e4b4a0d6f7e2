"""What the ranks of a gang tell one another; for a run of one rank there is nobody to ask."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from orchestrator.errors import ConfigError
from orchestrator.trainer.options_ddp import DdpOptions
from orchestrator.types import BatchPlan, StopMode, TrainTask

__all__ = ["Ranks", "joined"]

_PATIENCE = timedelta(minutes=10)  # of a group that is made here; a gang on Ray brings its own
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """One rank's view of its gang. All ranks call the same methods in the same order.

    Numbers that decide something travel between the hosts' memories, so that asking does not wait
    for what a card computes.

    Args:
        batch: How a step is shared.
        rank: Of this process, from 0.
        host: A process group that reduces tensors of the host; None where there is one rank.
    """

    def __init__(self, batch: BatchPlan, rank: int = 0, host: Any = None) -> None:
        self.batch = batch
        self.rank = rank
        self.count = batch.world_size
        self._host = host

    @property
    def is_first(self) -> bool:
        """True for the rank that speaks for all: it saves, reports and writes."""
        return self.rank == 0

    @property
    def share(self) -> int:
        """Samples of this rank in an optimizer step."""
        return self.batch.share(self.rank)

    def most_and_least(self, most: int, least: int) -> tuple[int, int]:
        """The largest first number and the smallest second number of all ranks, in one reduction.

        A rank that ran out of memory is known to all before anyone uses its gradients.
        """
        if self.count == 1:
            return most, least
        numbers = torch.tensor([most, -least])
        distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX, group=self._host)
        found, negative = numbers.tolist()
        return int(found), -int(negative)

    def agreed(self, mode: StopMode | None) -> StopMode | None:
        """What rank 0 was asked. All leave at the same step, or those that stay wait for ever."""
        return self.heard(mode, is_due=False)[0]

    def heard(self, mode: StopMode | None, *, is_due: bool) -> tuple[StopMode | None, bool]:
        """The same, and whether something is due on rank 0 that all do together."""
        if self.count == 1:
            return mode, is_due
        modes = (None, *StopMode)
        number = torch.tensor([2 * modes.index(mode) + is_due])
        distributed.broadcast(number, src=0, group=self._host)
        index, due = divmod(int(number), 2)
        return modes[index], bool(due)

    def summed(self, *numbers: float) -> list[float]:
        """Numbers of the host, in double precision, summed over the ranks."""
        if self.count == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums, group=self._host)
        return [float(value) for value in sums]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sum a tensor of the host over the ranks, in its place."""
        distributed.all_reduce(tensor, group=self._host)

    def of_first(self, value: Any) -> Any:
        """What rank 0 has, of plain values: it decides where ranks must not differ in a bit."""
        if self.count == 1:
            return value
        shared = [value]
        distributed.broadcast_object_list(shared, src=0, group=self._host)
        return shared[0]

    def part(self, count: int) -> range:
        """This rank's part of so many things."""
        return self.part_of(self.rank, count)

    def part_of(self, rank: int, count: int) -> range:
        """A rank's part of so many things; the first ranks have one more than the last."""
        least, rest = divmod(count, self.count)
        begin = rank * least + min(rank, rest)
        return range(begin, begin + least + (rank < rest))

    @torch.no_grad()
    def share_weights(self, model: nn.Module) -> None:
        """Give every rank the weights and statistics of rank 0; each made first ones of its own."""
        for tensor in (*model.parameters(), *model.buffers()):
            group = None if tensor.is_cuda else self._host
            distributed.broadcast(tensor.data, src=0, group=group)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Rank 0 does what is inside, then the others: they find what it has left."""
        if self.count > 1 and not self.is_first:
            self.summed(0.0)
        yield
        if self.count > 1 and self.is_first:
            self.summed(0.0)

    @torch.no_grad()
    def average_statistics(self, models: Iterable[nn.Module]) -> None:
        """Give every rank the mean of the ranks' running statistics, each saw its own samples."""
        if self.count == 1:
            return
        found = [
            buffer
            for model in models
            for name, buffer in model.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        if found:
            flat = torch.cat([buffer.reshape(-1).float() for buffer in found])
            distributed.all_reduce(flat)
            flat /= self.count
            for buffer, mean in zip(found, flat.split([b.numel() for b in found]), strict=True):
                buffer.copy_(mean.view_as(buffer))


@contextmanager
def joined(task: TrainTask, options: DdpOptions, *, is_cuda: bool) -> Iterator[Ranks]:
    """Meet the other ranks of the attempt; who made the processes may have made their group.

    Where nobody did, the group is made here, at the `MASTER_ADDR` and `MASTER_PORT` of the
    environment: NCCL for tensors of cards, gloo for those of the host. It ends with the block,
    except after an error: then others may wait in it, and it ends with the process.

    Raises:
        ConfigError: E1131, there are several ranks and no address at which to meet.
    """
    batch = task.batch
    if batch.world_size == 1:
        yield Ranks(batch)
        return
    os.environ.update(
        options.nccl
    )  # NCCL reads them with its first message; what is asked for wins
    is_ours = not distributed.is_initialized()
    if is_ours:
        _meet(task, options, is_cuda=is_cuda)
    host = None  # the group of all ranks, where it takes tensors of the host
    if "gloo" not in str(distributed.get_backend_config()):
        host = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    yield Ranks(batch, task.rank, host)
    if is_ours:
        distributed.destroy_process_group()


def _meet(task: TrainTask, options: DdpOptions, *, is_cuda: bool) -> None:
    if missing := [name for name in _RENDEZVOUS if not os.environ.get(name)]:
        raise ConfigError(
            f"{task.batch.world_size} ranks have no place to meet",
            code="E1131",
            why=(f"the environment has no {' and no '.join(missing)}",),
            fix=("start the ranks through orchestrator, which sets them",),
        )
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
        rank=task.rank,
        world_size=task.batch.world_size,
        timeout=_PATIENCE,
    )
