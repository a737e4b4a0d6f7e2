"""Failures of the disk and the database as StoreErrors: which code, and what to do about it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from orchestrator.errors import StoreError

__all__ = [
    "FULL",
    "LOCKED",
    "NOT_OURS",
    "OTHER",
    "READ_ONLY",
    "UNREACHABLE",
    "Fault",
    "explained_disk",
    "store_error",
]

Fault: TypeAlias = tuple[str, str, str]
"""The code, what is said of the thing, the remedy."""

FULL: Fault = (
    "E5004",
    "is full: the disk has no room",
    "free space on that disk, then start again",
)
LOCKED: Fault = (
    "E5002",
    "is locked by another process",
    "close the program that holds it, such as a database browser",
)
READ_ONLY: Fault = (
    "E5003",
    "cannot be written",
    "check the owner and the permissions, or choose another folder with ORC_HOME",
)
NOT_OURS: Fault = (
    "E5001",
    "is not a readable database",
    "move it away and restore a backup, or choose another folder with ORC_HOME",
)
UNREACHABLE: Fault = ("E5015", "cannot be reached", "check the address, and that the server is up")
OTHER: Fault = ("E5016", "failed", "check the disk and the system's log")

_SYSTEM = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
}


@contextmanager
def explained_disk(what: str) -> Iterator[None]:
    """Turn an OSError inside into a StoreError about `what`."""
    try:
        yield
    except OSError as error:
        raise store_error(what, _SYSTEM.get(error.errno or 0, OTHER), str(error)) from error


def store_error(what: str, fault: Fault, why: str) -> StoreError:
    """The error for people: `what` and the fault's words, `why` in one line, the remedy."""
    code, says, remedy = fault
    return StoreError(f"{what} {says}", code=code, why=(" ".join(why.split()),), fix=(remedy,))
