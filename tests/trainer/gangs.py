"""Ranks in processes of their own that meet over gloo, and what each of them found."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from orchestrator.cluster.address import free_port

__all__ = ["found_by_ranks", "in_turn"]

_PATIENCE = 900.0  # seconds: a busy machine needs minutes to import torch


def found_by_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Call `work(rank, *given)` in `count` processes; its results in the order of ranks."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, answers, work, given))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    try:
        found = dict(answers.get(timeout=_PATIENCE) for _ in ranks)
        for value in found.values():
            if isinstance(value, BaseException):
                raise value
        for process in ranks:
            process.join(_PATIENCE)
            assert process.exitcode == 0, f"a rank ended with {process.exitcode}"
    finally:
        for process in ranks:
            process.kill()
    return [found[rank] for rank in range(count)]


def _rank(
    rank: int, count: int, port: int, answers: Any, work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
    }  # before ultralytics is imported, which reads some of them once
    import torch

    torch.set_num_threads(1)
    try:
        found = work(rank, *given)
    except Exception as error:
        answers.put((rank, RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")))
        raise
    answers.put((rank, found))


def in_turn(rank: int, works: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """For `found_by_ranks`: several works in one process, in one group that is made here."""
    from torch import distributed

    distributed.init_process_group("gloo")
    found = [work(rank, *given) for work, given in works]
    distributed.destroy_process_group()
    return found
