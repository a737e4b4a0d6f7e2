"""Output that outlives its terminal: when that is closed, lines go on into a file."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import TextIOBase
from pathlib import Path
from typing import TextIO

__all__ = ["Lasting", "outliving_terminal"]


class Lasting(TextIOBase):
    """Writes to a stream, and from its first failure on to the end of a file.

    Args:
        stream: A terminal, or what may be one.
        path: The file; made when it is needed.
    """

    def __init__(self, stream: TextIO, path: Path) -> None:
        super().__init__()
        self._stream, self._path = stream, path

    def write(self, text: str) -> int:
        """Write a text somewhere; a disk that fails too loses it, and never stops the driver."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # the latter: it was closed
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._path.open("a", encoding="utf-8", buffering=1)
                return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """False: bars have no place in what may become a file."""
        return False


@contextmanager
def outliving_terminal(path: Path) -> Iterator[None]:
    """Go on when the terminal is closed: this process and what it starts inside do not hear of it.

    Messages go to the file from then on.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by what is started
    try:
        with redirect_stderr(Lasting(sys.stderr, path)):
            yield
    finally:
        signal.signal(signal.SIGHUP, before)
