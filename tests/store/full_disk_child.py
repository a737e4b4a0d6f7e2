"""Fills the small disk it is given: the store first, then checkpoints; prints what happened."""

import json
import sys
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import StoreError
from orchestrator.messages import RunSubmitted
from orchestrator.states import RunState
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.store.folder import FolderObserver
from orchestrator.store.sql import SqlStore
from orchestrator.types import CheckpointRef
from tests.contracts.store import RUN, attempt, epoch, spec, status

__all__ = ["main"]


def fill_store(disk: Path) -> dict[str, object]:
    """Append until the disk is full, make room, and look what is there."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    path, done, code = str(disk / "o.db"), 0, ""
    with SqlStore(path) as store, store.drive():
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=1, state=RunState.RUNNING)])
        try:
            while True:
                store.append(epoch(done + 1, attempt(1)))
                done += 1
        except StoreError as error:
            code = error.code
    ballast.unlink()
    with SqlStore(path) as store, store.drive():
        kept = len(store.progress(RUN))
        goes_on = store.append(epoch(kept + 1, attempt(1)))
        journal = len(list(store.replay())) - 1
    return {
        "code": code,
        "acknowledged": done,
        "kept": kept,
        "goes_on": goes_on,
        "journal": journal,
    }


def fill_checkpoints(disk: Path) -> dict[str, object]:
    """Write one checkpoint that fits and one that does not; then one that fits again."""
    checkpoints = FileCheckpoints(str(disk / "run"))

    def save(number: int, size: int) -> CheckpointRef:
        def write(file: BinaryIO) -> None:
            file.writelines(bytes(1000) for _ in range(size // 1000))

        return checkpoints.write(attempt(1), number, write, is_best=False, check=lambda file: None)

    first, code = save(1, 100_000), ""
    try:
        save(2, 10_000_000)
    except StoreError as error:
        code = error.code
    names = sorted(path.name for path in (disk / "run").rglob("*.*"))
    is_safe = checkpoints.verify(first)
    return {
        "code": code,
        "names": names,
        "is_safe": is_safe,
        "again": checkpoints.verify(save(2, 9000)),
    }


def fill_folder(disk: Path) -> dict[str, object]:
    """Write a run's files with and without room; the driver must not notice."""
    observer = FolderObserver()
    folder = disk / "people"
    row = status(attempt=1, state=RunState.RUNNING)
    object.__setattr__(row, "folder", str(folder))
    observer.add_status(row)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    for number in range(1, 40):
        observer(epoch(number, attempt(1)), [row])
    ballast.unlink()
    observer(epoch(40, attempt(1)), [row])
    lines = (folder / "events.jsonl").read_text().splitlines()
    return {
        "last": json.loads(lines[-1])["type"],
        "run": json.loads((folder / "run.json").read_text())["state"],
    }


def main() -> None:
    """Fill the disk in the way that is asked for."""
    ways = {"store": fill_store, "checkpoints": fill_checkpoints, "folder": fill_folder}
    sys.stdout.write(json.dumps(ways[sys.argv[1]](Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
