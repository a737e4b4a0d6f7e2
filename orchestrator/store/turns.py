"""Writers of a SQLite file take turns: whoever waits for the database is not overtaken again."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.types import Seconds

__all__ = ["Turns"]

_LOOK: Seconds = 0.001
_PATIENCE: Seconds = 0.5  # a process that was stopped with the turn must not stop everybody


class Turns:
    """A lock beside the database that a writer holds while it waits for the database itself.

    SQLite lets waiters sleep for up to 0.1 s between two looks
    (https://www.sqlite.org/c3ref/busy_timeout.html). A driver that writes hundreds of short
    transactions in a row leaves the database free for microseconds between two of them, so that
    an asker's look nearly always comes at the wrong moment. With this lock the driver stands
    behind an asker that waits already. It is about fairness alone: what may be written when is
    decided by SQLite, and whoever cannot have this lock goes on without it.

    Args:
        path: The file that is locked; made when it is not there, for its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be the one whose turn is next; begin the transaction inside."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
        except OSError:  # a folder that nobody may write to: the database says so itself
            yield
            return
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK)
