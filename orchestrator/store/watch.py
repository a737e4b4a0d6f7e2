"""Tells in microseconds whether anything has been committed to a store."""

import sqlite3
from pathlib import Path

__all__ = ["Watch"]


class Watch:
    """Asks SQLite whether the file has changed, where it would be read again and again.

    `PRAGMA data_version` tells commits of every other connection, of this process too
    (https://www.sqlite.org/pragma.html#pragma_data_version). Who reads after an answer of True has
    read everything that was committed before it.

    Args:
        path: The file; None for a database that cannot be asked: then everything may have changed.
        patience: Seconds to wait for who writes, where readers and writers wait for each other.
    """

    def __init__(self, path: Path | None, patience: float) -> None:
        self._connection: sqlite3.Connection | None = None
        if path is not None:
            self._connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
        self._version: int | None = None

    @property
    def is_blind(self) -> bool:
        """Whether it cannot tell, and answers True always."""
        return self._connection is None

    def has_changed(self) -> bool:
        """Whether there may have been a commit since the last call; True at the first."""
        if self._connection is None:
            return True
        try:
            version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.OperationalError:  # who reads then is told what is wrong
            return True
        has_changed, self._version = version != self._version, version
        return has_changed

    def close(self) -> None:
        """Ask no more: from now on everything may have changed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
