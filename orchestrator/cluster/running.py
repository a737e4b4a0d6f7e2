"""What `orc up` wrote down of the Ray it started here: its addresses, its token, its processes."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cluster.guard import belonging
from orchestrator.errors import ClusterError, StoreError
from orchestrator.types import Seconds

__all__ = [
    "LOOPBACK_NAME",
    "TAG_NAME",
    "RunningRay",
    "lock_of",
    "read_running",
    "record_path",
    "write_running",
]

# Ray's own switch for systems whose firewalls ask about every port: with 0 all of it, exporters of
# figures too, listens on the loopback interface alone. Who connects has to say so as well.
LOOPBACK_NAME = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
TAG_NAME = "ORC_CLUSTER_TAG"  # in the environment of every process of a Ray of `orc up`
_CONNECT_SECONDS: Seconds = 2.0
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRay:
    """The part of a Ray that was started on this machine.

    Attributes:
        address: Where the head's control process listens, `host:port`.
        dashboard: URL of the job server; None where another machine is the head.
        token_path: The file with the token that it demands.
        folder: Sockets and logs of its session; empty where another machine is the head.
        tag: Value of `TAG_NAME` in its processes.
        asked: The options it was started with, to tell another wish from the same again.
        nodes: Its Ray nodes here: kind, GPUs, CPUs, RAM, labels.
        started_at: Unix time.
    """

    address: str
    dashboard: str | None
    token_path: str
    folder: str
    tag: str
    asked: dict[str, Any]
    nodes: tuple[dict[str, Any], ...]
    started_at: float

    @property
    def is_loopback(self) -> bool:
        """True when only this machine reaches it."""
        return self.address.startswith(_LOOPBACK)

    def processes(self) -> list[psutil.Process]:
        """Its processes that are there, and all that these have started."""
        found: dict[int, psutil.Process] = {}
        # By what they inherited, and not by files that they have open: a driver that joined, or
        # somebody who reads a log, is none of them.
        for pid in belonging(self.tag, "", os.getpid(), name=TAG_NAME):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
        found.pop(os.getpid(), None)
        return list(found.values())

    def is_answering(self) -> bool:
        """True when the head's control process can be reached."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True

    def serves(self, url: str) -> bool:
        """True when this URL is its job server."""
        return self.dashboard is not None and url.rstrip("/") in _spellings(self.dashboard)


def record_path(home: Path) -> Path:
    """The file with the record."""
    return home / "ray-up.json"


@contextmanager
def lock_of(home: Path) -> Iterator[None]:
    """Held while a Ray is started or ended here.

    Raises:
        ClusterError: E4014, another process starts or ends it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "ray-up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClusterError(
                "another orc up or orc down is under way here",
                code="E4014",
                why=(f"it holds {file.name}",),
                fix=("wait until it is done; orc up says what runs",),
            ) from error
        yield


def read_running(home: Path) -> RunningRay | None:
    """The record, whether or not what it tells of still runs; None without one.

    Raises:
        StoreError: E5040, the file is not a record.
    """
    path = record_path(home)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return RunningRay(**{**values, "nodes": tuple(values["nodes"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path} does not tell what runs here",
            code="E5040",
            why=(f"{type(error).__name__}: {error}",),
            fix=(f"look for Ray's processes (ps -ef), end them, and remove {path}",),
        ) from error


def write_running(home: Path, running: RunningRay | None) -> None:
    """Put the record in place, for its owner alone; None removes it."""
    path = record_path(home)
    if running is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(running), file, indent=2)
    temporary.replace(path)


def _spellings(url: str) -> Sequence[str]:
    if "//127.0.0.1:" not in url:
        return (url,)
    return (url, url.replace("127.0.0.1", "localhost"))
