"""The files of a run's folder, for people: run.json, config.yaml, env.json and what happened."""

import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.messages import AttemptEvent, Event, ProgressReported, RunSubmitted
from orchestrator.store.codec import encode, to_plain
from orchestrator.store.faults import explained_disk
from orchestrator.store.private import check_name, make_folder, opened_folder, replace_file
from orchestrator.types import RunStatus

__all__ = ["FolderObserver", "create_run_folder", "write_config", "write_environment"]

_LATEST = "latest"
_ENDED = 64  # runs whose last status is remembered


def create_run_folder(runs: str | Path, project: str, run_id: str) -> Path:
    """Make ``<runs>/<project>/<run_id>/`` with ``logs/`` in it and point ``latest`` to it.

    Folders that are made are open to their owner alone. Only `runs` itself may lie behind a
    symbolic link.

    Returns:
        The absolute path of the run's folder.

    Raises:
        StoreError: a name that cannot be one (E5011), or the disk failed (E5003, E5004, E5016).
    """
    check_name(project, "project")
    check_name(run_id, "run")
    if run_id == _LATEST:
        raise StoreError(
            "a run cannot be called latest: that is the link to the last one", code="E5011"
        )
    root = Path(runs).absolute()
    with explained_disk(f"the folder {root}"), ExitStack() as stack:
        make_folder(root)
        above = stack.enter_context(opened_folder(str(root)))
        own = stack.enter_context(opened_folder(project, inside=above, make=True))
        run = stack.enter_context(opened_folder(run_id, inside=own, make=True))
        stack.enter_context(opened_folder("logs", inside=run, make=True))
        _point(own, run_id)
    return root / project / run_id


def write_config(folder: str | Path, text: str) -> None:
    """Put the resolved config into ``config.yaml``.

    Raises:
        StoreError: the disk failed (E5003, E5004, E5016).
    """
    path = Path(folder) / "config.yaml"
    with explained_disk(f"the file {path}"):
        replace_file(path, text.encode())


def write_environment(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Put what made the result (versions, cards, host) into ``env.json``.

    Raises:
        StoreError: the disk failed (E5003, E5004, E5016).
    """
    path = Path(folder) / "env.json"
    with explained_disk(f"the file {path}"):
        replace_file(path, _pretty(facts))


class FolderObserver:
    """Writes each run's run.json, events.jsonl and metrics.jsonl as the driver goes.

    The store is the truth and these files are a copy of it: a disk that is full or a folder that
    is gone is logged, once until it is well again, and never stops the driver. After a crash a
    line may be missing or there twice.
    """

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}
        self._written: dict[str, RunStatus] = {}
        self._ended: deque[str] = deque()
        self._failing: set[tuple[str, str]] = set()

    def __call__(self, event: Event, statuses: Sequence[RunStatus] = ()) -> None:
        """Write down an event that was recorded, and the statuses that it changed."""
        for status in statuses:
            self._place(status)
        self.add_event(event)
        for status in statuses:
            self.add_status(status)

    def add_status(self, status: RunStatus) -> None:
        """Replace the run's ``run.json``, when the status is another than the one in it."""
        if self._written.get(status.run_id) == status:
            return
        self._place(status)
        body = _pretty({"schema_version": 1, **to_plain(status)})
        # Not durable: a driver that takes thousands of runs at once would wait for the disk.
        write = partial(replace_file, data=body, is_durable=False)
        if self._attempt(status.run_id, "run.json", write):
            self._written[status.run_id] = status
        if status.state.is_terminal:  # hardly anything follows, and what does brings its status
            self._ended.append(status.run_id)
        while len(self._ended) > _ENDED:
            run_id = self._ended.popleft()
            self._written.pop(run_id, None)
            self._folders.pop(run_id, None)

    def _place(self, status: RunStatus) -> None:
        if status.folder:
            self._folders[status.run_id] = Path(status.folder)

    def add_event(self, event: Event) -> None:
        """Add a line to ``events.jsonl``, and one per metric of an epoch to ``metrics.jsonl``."""
        if isinstance(event, RunSubmitted):
            self._folders[event.spec.run_id] = Path(event.spec.folder)
        run_id = _run_of(event)
        if run_id is None or event.is_volatile:
            return
        self._attempt(run_id, "events.jsonl", lambda path: _add(path, encode(event) + "\n"))
        if isinstance(event, ProgressReported):
            self._attempt(run_id, "metrics.jsonl", lambda path: _add_metrics(path, event))

    def _attempt(self, run_id: str, name: str, write: Callable[[Path], None]) -> bool:
        folder = self._folders.get(run_id)
        if folder is None or not folder.is_absolute():
            return False
        try:
            make_folder(folder)
            write(folder / name)
        except (OSError, ValueError, OverflowError) as error:  # the latter: a time beyond dates
            if (run_id, name) not in self._failing:
                self._failing.add((run_id, name))
                import structlog  # it takes a tenth of a second, and a sound disk needs none

                structlog.get_logger().warning(
                    "a file for people cannot be written; the store keeps everything",
                    run_id=run_id,
                    file=str(folder / name),
                    error=str(error),
                )
            return False
        self._failing.discard((run_id, name))
        return True


def _run_of(event: Event) -> str | None:
    if isinstance(event, RunSubmitted):
        return event.spec.run_id
    if isinstance(event, AttemptEvent):
        return event.attempt.run_id
    return getattr(event, "run_id", None)


def _add_metrics(path: Path, event: ProgressReported) -> None:
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
    epoch = event.progress.epoch
    rows = [
        {"ts": at, "step": None, "epoch": epoch, "name": name, "value": _finite(value), "rank": 0}
        for name, value in event.progress.metrics.items()
    ]
    _add(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _finite(value: float) -> float | None:
    # JSON has no NaN; the store keeps it.
    return value if math.isfinite(value) else None


def _pretty(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode(
        errors="backslashreplace"
    )


def _add(path: Path, text: str) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        # A full disk can cut a line short; the next one must not be glued to its rest.
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        file.write(("\n" if is_torn else "").encode() + text.encode())


def _point(project: int, run_id: str) -> None:
    """Make ``latest`` a link to the run, unless a person put something else there."""
    # Named after the run: several processes may make folders of one project at once.
    fresh = f".{_LATEST}.{run_id}.tmp"
    with suppress(OSError):  # mostly it is not there; if it cannot go, making the link tells why
        os.unlink(fresh, dir_fd=project)
    try:
        os.readlink(_LATEST, dir_fd=project)
    except FileNotFoundError:
        pass  # the first run of the project
    except OSError:
        return  # a file or folder that a person made: it stays, and the run needs no link
    os.symlink(run_id, fresh, dir_fd=project)
    os.rename(fresh, _LATEST, src_dir_fd=project, dst_dir_fd=project)
