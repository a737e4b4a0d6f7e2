"""Ray's processes in process groups of their own: what is sent to ours is for the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

__all__ = ["own_groups"]


@contextmanager
def own_groups() -> Iterator[None]:
    """While a Ray is started: give each of its processes a group of its own.

    A terminal sends Ctrl-C to a whole group, and so does whoever ends a command with all that it
    started (`timeout`, a shell's `kill -- -PID`). Ray shields its processes from the first alone:
    SIGTERM would end them while the driver still lets the runs save the epoch under way.
    """
    import ray

    services: Any = ray._private.services  # no public door: Ray's own Popen takes no such wish
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen
