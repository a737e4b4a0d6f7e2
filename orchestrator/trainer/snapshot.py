"""The picture of what held the memory when it ran out, kept with the attempt."""

import logging
from pathlib import Path

from orchestrator.ports import Device
from orchestrator.types import TrainTask

__all__ = ["keep_snapshot"]

log = logging.getLogger(__name__)


def keep_snapshot(device: Device, task: TrainTask) -> None:
    """Write `out-of-memory.*` into the attempt's folder: to be called while the error is handled.

    A file that cannot be written is told in the log: the picture is for people, and training goes
    on without it.
    """
    suffix, content = device.snapshot()
    rank = f"-rank{task.rank}" if task.rank else ""
    path = Path(task.folder) / f"out-of-memory{rank}{suffix}"
    try:
        path.write_bytes(content)
    except OSError as error:
        log.warning("what held the memory cannot be written to %s: %s", path, error)
