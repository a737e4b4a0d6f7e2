"""Where every thread of a worker stands, written to a file when the worker is sent a signal."""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator, Sequence
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


def dump(workers: Sequence[tuple[int, str]]) -> list[bool]:
    """Let processes of this machine write their stacks; False of each that did not in time.

    All are asked before one is waited for: a process that is stopped never writes.

    Args:
        workers: Of each the process and the file that it opened; without the file nothing is sent.
    """
    files = [Path(path) for _, path in workers]
    waited = {path for (pid, _), path in zip(workers, files, strict=True) if _ask(pid, path)}
    limit, sizes = time.monotonic() + _WRITE_SECONDS, dict.fromkeys(waited, -1)
    while waited and time.monotonic() < limit:
        time.sleep(_LOOK_SECONDS)
        for path in tuple(waited):
            before, sizes[path] = sizes[path], _size(path)
            if before == sizes[path] > 0:
                waited.remove(path)
    return [sizes.get(path, 0) > 0 for path in files]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # who ends in peace removes its file


def _ask(pid: int, path: Path) -> bool:
    if not path.exists():
        return False
    try:
        os.kill(pid, _SIGNAL)
    except ProcessLookupError:
        return False
    return True
