"""CPUs, RAM and disk of this machine that runs may count on."""

import os
import shutil
from pathlib import Path

import psutil

from orchestrator.errors import StoreError
from orchestrator.store.checkpoints import DEFAULT_RESERVE_BYTES
from orchestrator.types import Bytes

__all__ = ["check_space", "cpu_count", "disk_reserve", "free_bytes", "ram_bytes"]

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


def disk_reserve() -> Bytes:
    """What has to be free on a disk before anything starts: 5 GB, or `ORC_DISK_RESERVE` bytes."""
    return int(os.environ.get("ORC_DISK_RESERVE", DEFAULT_RESERVE_BYTES))


def check_space(folder: Path) -> None:
    """Refuse to start on a disk that will soon be full.

    `ORC_DISK_RESERVE` (bytes) replaces the reserve of 5 GB.

    Raises:
        StoreError: E5013, less is free than the reserve.
    """
    reserve = disk_reserve()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < reserve:
        raise StoreError(
            f"the disk of {folder} has too little room to start",
            code="E5013",
            why=(f"{free / 1e9:.1f} GB are free; {reserve / 1e9:.1f} GB are kept in reserve",),
            fix=("free space there, or choose another disk: --runs DIR", "ORC_DISK_RESERVE=BYTES"),
        )
