"""Ending the Ray that `orc up` started here: exactly its processes, and a look at who is left."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.cluster.running import RunningRay, lock_of, read_running, write_running
from orchestrator.errors import ClusterError
from orchestrator.types import Seconds

__all__ = ["end_processes", "stop_ray"]

_FAREWELL_SECONDS: Seconds = 10.0  # for what was asked to end; Ray's nodes take about two
_KILL_SECONDS: Seconds = 5.0
_FIRST = "raylet"  # ends the workers of its node; those of a node without it are orphans


def stop_ray(home: Path) -> tuple[RunningRay | None, int]:
    """End the Ray that was started here; returns it (None: there is none), and how many ended.

    Raises:
        ClusterError: E4008, processes survived; E4014, another command is at it.
    """
    with lock_of(home):
        running = read_running(home)
        if running is None:
            return None, 0
        num_ended = end_processes(running)
        if running.folder:
            shutil.rmtree(running.folder, ignore_errors=True)
        write_running(home, None)
        return running, num_ended


def end_processes(running: RunningRay) -> int:
    """Ask every process of it to end, kill who does not; returns how many there were.

    Raises:
        ClusterError: E4008, some survived even that.
    """
    seen: dict[int, psutil.Process] = {}
    while found := [each for each in running.processes() if each.pid not in seen]:
        seen |= {each.pid: each for each in found}  # again: they may have been starting others
        nodes = [each for each in found if _name(each) == _FIRST]
        _ask(nodes, _FAREWELL_SECONDS)
        _ask([each for each in found if each not in nodes], _FAREWELL_SECONDS)
        for each in found:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        _, left = psutil.wait_procs(found, timeout=_KILL_SECONDS)
        if left:
            raise _survivors(left)
    return len(seen)


def _ask(processes: Sequence[psutil.Process], patience: Seconds) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    psutil.wait_procs(processes, timeout=patience)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def _survivors(left: Sequence[psutil.Process]) -> ClusterError:
    lines = [f"pid {each.pid} {_name(each)}" for each in left]
    return ClusterError(
        f"{len(left)} process(es) of Ray could not be ended",
        code="E4008",
        why=(*lines[:5], "a process that waits for a device or a disk cannot be killed"),
        fix=("orc down, again, once what they wait for answers",),
    )
