"""Ranks in processes of their own that meet over gloo, and what each of them found."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from orchestrator.cluster.address import free_port

__all__ = ["found_by_ranks", "in_turn"]

_PATIENCE = 900.0  # seconds: a busy machine needs minutes to import torch


def found_by_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Call `work(rank, *given)` in `count` processes; its results in the order of ranks."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, pipe[1], work, given))
        for rank, pipe in enumerate(pipes)
    ]
    found: dict[int, Any] = {}
    try:
        for process, (_, writer) in zip(ranks, pipes, strict=True):
            process.start()
            writer.close()  # the rank has its own, so its death ends the pipe
        waiting: dict[Any, int] = {reader: rank for rank, (reader, _) in enumerate(pipes)}
        while waiting:
            ready = wait(list(waiting), _PATIENCE)
            assert ready, f"nothing of the ranks {sorted(waiting.values())} in {_PATIENCE} s"
            for reader in ready:
                rank = waiting.pop(reader)
                found[rank] = _answer(rank, reader)
        for process in ranks:
            process.join(_PATIENCE)
            assert process.exitcode == 0, f"a rank ended with {process.exitcode}"
    finally:
        for process, (reader, _) in zip(ranks, pipes, strict=True):
            reader.close()
            if process.pid is not None:
                process.kill()
    return [found[rank] for rank in range(count)]


def _answer(rank: int, reader: Any) -> Any:
    try:
        value = reader.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died and told nothing") from None
    if isinstance(value, BaseException):
        raise value
    return value


def _rank(
    rank: int, count: int, port: int, answer: Any, work: Callable[..., Any], given: tuple[Any, ...]
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
        answer.send(RuntimeError(f"rank {rank}: {type(error).__name__}: {error}"))
        raise
    answer.send(found)


def in_turn(rank: int, works: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """For `found_by_ranks`: several works in one process, in one group that is made here."""
    from torch import distributed

    distributed.init_process_group("gloo")
    found = [work(rank, *given) for work, given in works]
    distributed.destroy_process_group()
    return found
