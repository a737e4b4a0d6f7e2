"""CPUs, RAM and disk of this machine that runs may count on."""

import os
import shutil
from pathlib import Path

import psutil

from orchestrator.types import Bytes

__all__ = ["cpu_count", "free_bytes", "ram_bytes"]

_STEP_BYTES: Bytes = 256 * 1024**2  # as nodes tell their RAM
# Limits of control groups, version 2 and version 1: what a container may take.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def free_bytes(folder: Path) -> Bytes:
    """Bytes that are free for this user on the disk of a folder."""
    return shutil.disk_usage(folder).free


def ram_bytes(limits: tuple[Path, ...] = _LIMITS) -> Bytes:
    """RAM of this machine, or of its container, less what a Ray of our own takes for itself.

    All of it, and not what is free at the moment: what runs here may differ from what runs when a
    run starts, and an answer that changes from one minute to the next would refuse and allow the
    same config in turn.

    Args:
        limits: Files with a number of bytes; those that are missing or hold a word do not count.
    """
    total = int(psutil.virtual_memory().total)
    for path in limits:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    kept = _STEP_BYTES  # 80 MB of object store, and Ray's control process
    return max(total - kept, _STEP_BYTES) // _STEP_BYTES * _STEP_BYTES
