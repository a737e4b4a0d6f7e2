"""Two ranks in processes of their own for the recovery bench; the first one's card fills up."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.recovery_runs import Done, Fill, Work, run
from orchestrator.cluster.address import free_port

__all__ = ["Gang", "serve"]

_PATIENCE = 600.0  # seconds for one run of both ranks


class Gang:
    """Both ranks, which train again and again."""

    def __init__(self, orders: list[Any], answers: Any) -> None:
        self._orders, self._answers = orders, answers
        self._number = 0

    def run(self, fill: Fill | None = None, *, micro_batch: int = 0, seed: int = 0) -> Done:
        """Train once on both; what rank 0 did, with the errors and samples of both."""
        self._number += 1
        hurt = self._number % 2  # rank 1 runs out as often as rank 0
        for rank, order in enumerate(self._orders):
            order.put((self._number, fill if rank == hurt else None, micro_batch, seed))
        found: dict[int, Done] = dict(self._answers.get(timeout=_PATIENCE) for _ in self._orders)
        done, other = found[0], found[1]
        done.error = done.error or other.error
        done.wrong += other.wrong
        for epoch, steps in other.samples.items():
            done.samples.setdefault(epoch, []).extend(steps)
        done.sizes += other.sizes
        done.load = {k: max(v, other.load.get(k, 0)) for k, v in done.load.items()}
        return done


@contextmanager
def serve(work: Work, folder: Path) -> Iterator[Gang]:
    """Start both ranks; they end when this does."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    answers, orders = context.Queue(), [context.Queue() for _ in range(2)]
    ranks = [
        context.Process(
            target=_rank, args=(rank, replace(work, rank=rank), folder, port, order, answers)
        )
        for rank, order in enumerate(orders)
    ]
    for process in ranks:
        process.start()
    try:
        yield Gang(orders, answers)
    finally:
        for order in orders:
            order.put(None)
        for process in ranks:
            process.join(30)
            process.terminate()


def _rank(rank: int, work: Work, folder: Path, port: int, orders: Any, answers: Any) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }  # before ultralytics is imported, which reads them once
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    while (order := orders.get()) is not None:
        number, fill, micro_batch, seed = order
        mine = replace(work, settings=replace(work.settings, seed=seed))
        if micro_batch:
            mine = replace(mine, batch=replace(work.batch, micro_batch=micro_batch))
        answers.put((rank, run(folder / str(number), mine, fill)))
    distributed.destroy_process_group()
