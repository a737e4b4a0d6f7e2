"""The store that runs are kept in, where `runs:` is an address: can it be used, who reads it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.address import joined
from orchestrator.client.names import scratch_root
from orchestrator.types import RunSpec

if TYPE_CHECKING:
    from orchestrator.store.remote import RemoteFolder

__all__ = [
    "demand_storage",
    "demand_storage_of",
    "logs_of",
    "put_about",
    "results_of",
    "storage_told",
]


def demand_storage(address: str) -> None:
    """Refuse an address that nothing can be kept at; one that is empty means a folder.

    Raises:
        ConfigError: E1043 no credentials, E1044 no such bucket, E1045 it cannot be written to.
        StorageError: E5051, it cannot be reached.
    """
    if address:
        from orchestrator.store.reaching import demand_usable

        demand_usable(address)


def demand_storage_of(specs: Iterable[RunSpec]) -> None:
    """As `demand_storage`, once for each store that the runs are kept in."""
    for address in dict.fromkeys(spec.storage for spec in specs):
        demand_storage(address)


def storage_told(address: str) -> str:
    """One line for a plan: where runs are kept, and what is free here for what is not up yet."""
    if not address:
        return ""
    scratch = scratch_root()
    place = next(each for each in (scratch, *scratch.parents) if each.exists())
    free = shutil.disk_usage(place).free
    return f"runs are kept in {address}; scratch on this node: {scratch}, {free / 1e9:.1f} GB free"


def results_of(spec: RunSpec, attempt: int) -> str:
    """Address of what an attempt leaves for people: weights, results.csv, args.yaml."""
    return joined(spec.address, "files", f"attempt-{attempt}") if spec.storage and attempt else ""


def _folder_of(spec: RunSpec) -> "RemoteFolder":
    """The folder in its store of a run that is kept there."""
    from orchestrator.store.remote import RemoteFolder

    return RemoteFolder(spec.address, pauses=(0.5, 1.0))


def put_about(spec: RunSpec, folder: Path) -> None:
    """Put up what tells about a run before it starts: its config, its plan, what it runs on.

    Raises:
        StorageError: E5051, E5052: the store cannot be reached, or refuses.
    """
    remote = _folder_of(spec)
    for path in sorted(folder.glob("*.*")):
        if path.is_file():
            remote.put(path, path.name)


def logs_of(spec: RunSpec, folder: Path) -> tuple[Path, ...]:
    """The log files of a run that exist, oldest attempt first.

    Those of a run in a store are fetched into its folder here as they are there: put up after each
    epoch and at the end.

    Raises:
        StorageError: E5051, E5052: the store cannot be reached, or refuses.
    """
    if spec.storage:
        _fetch_logs(_folder_of(spec), folder)
    return tuple(sorted(folder.glob("logs/*.log"), key=lambda p: (len(p.name), p.name)))  # 2 < 10


def _fetch_logs(remote: "RemoteFolder", folder: Path) -> None:
    for name in remote.names("logs"):
        here = folder / name
        if name.endswith(".log") and not (
            here.is_file() and here.stat().st_size == remote.size(name)
        ):
            remote.get(name, here)
