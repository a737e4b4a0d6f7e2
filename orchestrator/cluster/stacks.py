"""Where every thread of a worker stands, written to a file when the worker is sent a signal."""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["dump", "dumped_on_signal", "stacks_file", "waits_for_others"]

_SIGNAL = signal.SIGUSR2  # neither Ray nor torch uses it
_WRITE_SECONDS = 5.0  # within which a live process writes; a stopped one never does
_LOOK_SECONDS = 0.1
_TOGETHER = "distributed_c10d.py"  # where torch keeps all that ranks do together


def stacks_file(folder: Path, rank: int = 0) -> Path:
    """The file of a rank in the folder of an attempt."""
    return folder / (f"stacks.rank-{rank}.txt" if rank else "stacks.txt")


def waits_for_others(path: Path) -> bool:
    """True when stacks that were written show a rank that computes something with the others."""
    return _TOGETHER in path.read_text(errors="replace")


@contextmanager
def dumped_on_signal(path: Path) -> Iterator[None]:
    """While inside, a signal lets this process write its stacks there, whoever holds the GIL.

    The file exists from the beginning, so that nothing has to be opened in a process that hangs;
    it is removed when nothing was written.
    """
    with path.open("w") as file:
        faulthandler.register(_SIGNAL, file=file, all_threads=True, chain=False)
        try:
            yield
        finally:
            # Without a handler a late signal would end the process: from now on to stderr.
            faulthandler.register(_SIGNAL, file=2, all_threads=True, chain=False)
    if path.stat().st_size == 0:
        path.unlink()


def dump(pid: int, path: str) -> bool:
    """Let a process of this machine write its stacks; False when it did not in time.

    The file must be the one that the process opened: without it nothing is sent.
    """
    file = Path(path)
    if not file.exists():
        return False
    try:
        os.kill(pid, _SIGNAL)
    except ProcessLookupError:
        return False
    limit = time.monotonic() + _WRITE_SECONDS
    size, last = file.stat().st_size, -1
    while time.monotonic() < limit and (size == 0 or size != last):
        time.sleep(_LOOK_SECONDS)
        size, last = file.stat().st_size, size
    return size > 0
