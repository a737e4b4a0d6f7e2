"""Ranks in processes of their own on this machine, and what each of them found."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from orchestrator.cluster.address import free_port

__all__ = ["found_by_ranks"]

_PATIENCE = 900.0  # seconds: a busy machine needs minutes to import torch


def found_by_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Call `work(rank, *given)` in `count` processes, which can meet over this machine's loopback.

    Each has one thread of torch and finds what `torch.distributed` reads in its environment.

    Args:
        count: Of processes.
        work: Of a module that can be imported by name, as for any spawned process.
        given: Further arguments.

    Returns:
        What each call returned, in the order of ranks.

    Raises:
        RuntimeError: If a rank failed, died or ended with another code than 0.
        TimeoutError: If nothing is told for 900 s.
    """
    port = free_port()
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, pipe[1], work, given))
        for rank, pipe in enumerate(pipes)
    ]
    try:
        for process, (_, writer) in zip(ranks, pipes, strict=True):
            process.start()
            writer.close()  # the rank has its own, so its death ends the pipe
        found = _told({reader: rank for rank, (reader, _) in enumerate(pipes)})
        for rank, process in enumerate(ranks):
            process.join(_PATIENCE)
            if process.exitcode != 0:
                raise RuntimeError(f"rank {rank} ended with {process.exitcode}")
    finally:
        for process, (reader, _) in zip(ranks, pipes, strict=True):
            reader.close()
            if process.pid is not None:
                process.kill()
    return [found[rank] for rank in range(count)]


def _told(waiting: dict[Any, int]) -> dict[int, Any]:
    """What each rank tells, as they come; `waiting` are the ranks by what they are heard on."""
    found: dict[int, Any] = {}
    while waiting:
        ready = wait(list(waiting), _PATIENCE)
        if not ready:
            ranks = sorted(waiting.values())
            raise TimeoutError(f"ranks {ranks} told nothing in {_PATIENCE:.0f} s")
        for reader in ready:
            rank = waiting.pop(reader)
            found[rank] = _answer(rank, reader)
    return found


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
