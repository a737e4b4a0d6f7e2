"""Several works of a rank in one process and one group, for `found_by_ranks`."""

from collections.abc import Callable
from typing import Any

__all__ = ["in_turn"]


def in_turn(rank: int, works: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """For `found_by_ranks`: several works in one process, in one group that is made here."""
    from torch import distributed

    distributed.init_process_group("gloo")
    found = [work(rank, *given) for work, given in works]
    distributed.destroy_process_group()
    return found
