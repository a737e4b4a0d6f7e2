"""The process group of a gang's ranks: NCCL for tensors of cards, gloo for those of the host."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from orchestrator.types import Card, Seconds

__all__ = ["process_group"]


@contextmanager
def process_group(card: Card | None, *, listener: int | None, timeout: Seconds) -> Iterator[None]:
    """Meet the other ranks, whom the environment names as torch's launcher would.

    A rank that fails leaves the group as it is: closed connections would fail the others before
    it could say what happened. Whoever started the ranks ends them.

    Args:
        card: The card of this rank; None, or an emulated card, is the CPU.
        listener: Descriptor of a socket that is bound to `MASTER_PORT`, on rank 0; so that nobody
            takes the port meanwhile.
        timeout: For the meeting and for each collective operation.

    Raises:
        RuntimeError: They did not meet in time (torch's `DistError`, which is a RuntimeError).
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_real = card is not None and not card.is_emulated
    if is_real:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # "cuda" means this one from now on
    limit = timedelta(seconds=timeout)
    store = distributed.TCPStore(  # type: ignore[attr-defined]  # torch documents it there
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=rank == 0,
        timeout=limit,
        master_listen_fd=listener,
    )
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if is_real else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=limit,
    )
    yield
    distributed.destroy_process_group()
