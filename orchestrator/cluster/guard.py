"""Ends what a driver left behind, however the driver ended; runs as a process of its own.

Ray's own processes follow a killed driver, but its two agents stay for a minute or more, and so
would whatever a training started. Called as `python -I -S guard.py TAG FOLDER` with standard input
from the driver: when that closes, every process of the driver's Ray is killed, and the folder with
Ray's sockets and logs removed. It imports nothing but the standard library, to be small.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

__all__ = ["TAG_NAME", "belonging"]

TAG_NAME = "ORC_DRIVER_TAG"


def belonging(tag: str, folder: str, driver: int, *, name: str = TAG_NAME) -> list[int]:
    """Ids of the processes that inherited the tag, or have a file in the folder (if any) open.

    Both are asked, because a process that changes its title (as Ray's do) may overwrite what the
    system shows of its environment. The driver itself, which has such files open, is left out.
    """
    wanted = f"{name}={tag}".encode()
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(driver):
            with contextlib.suppress(OSError):  # it ended, or is somebody else's
                has_tag = wanted in (process / "environ").read_bytes().split(b"\0")
                if has_tag or (folder and _uses(process, folder)):
                    found.append(int(process.name))
    return found


def _uses(process: Path, folder: str) -> bool:
    for name in os.listdir(process / "fd"):  # noqa: PTH208 - there are thousands of them
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"{process}/fd/{name}").startswith(f"{folder}/"):  # noqa: PTH115 - as above
                return True
    return False


def _end_all(tag: str, folder: str, driver: int) -> None:
    while left := belonging(tag, folder, driver):  # again, because they may be starting others
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    parent = os.getppid()
    sys.stdin.buffer.read()
    _end_all(sys.argv[1], sys.argv[2], parent)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
