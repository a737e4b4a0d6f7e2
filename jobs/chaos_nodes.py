"""A Ray of two nodes on this machine, for drills: its processes can be named, killed and stopped.

`python -m jobs.chaos_nodes FOLDER` is the process that keeps it: it tells on standard output, as a
line of JSON, where the Ray is and which processes its nodes are; a line on standard input adds a
node, the end of the input ends all.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cluster.guard import TAG_NAME, belonging
from orchestrator.cluster.session import token_file, use_token

__all__ = ["QUICK", "TwoNodes", "two_nodes"]

GPUS = 2  # of each node; all are emulated
QUICK = {  # a frozen node is noticed within 5 s, one that died within 2 s
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_worker_niceness": "0",  # Ray's 15 starves workers beside whatever else the machine does
}


@dataclass(slots=True)
class TwoNodes:
    """The handle of such a Ray.

    Attributes:
        address: Of its control process.
        control: The control process (GCS).
        raylets: The node process of each node that was added, the head's first.
    """

    home: Path
    folder: Path
    tag: str
    host: "subprocess.Popen[str] | None" = None
    address: str = ""
    control: psutil.Process | None = None
    raylets: list[psutil.Process] = field(default_factory=list)

    def start(self) -> None:
        """Start the head, and a second node."""
        use_token(token_file(self.home))
        variables = {**os.environ, **QUICK, TAG_NAME: self.tag}
        self.host = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-m", "jobs.chaos_nodes", str(self.folder)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # what ends with it shall not take this process along
        )
        self.raylets = []
        told = self._hear()
        self.address, self.control = told["address"], psutil.Process(told["gcs"])
        self.raylets.append(psutil.Process(told["raylet"]))
        self.add()

    def add(self) -> None:
        """Add a node."""
        assert self.host is not None
        assert self.host.stdin is not None
        self.host.stdin.write("add\n")
        self.host.stdin.flush()
        self.raylets.append(psutil.Process(self._hear()["raylet"]))

    def workers(self, raylet: psutil.Process | None = None) -> list[psutil.Process]:
        """The processes of the product: the workers of a node, or of all, and the inbox."""
        found: list[psutil.Process] = []
        for each in self.raylets if raylet is None else [raylet]:
            with suppress(psutil.Error):
                found += [child for child in each.children() if _title(child)]
        return found

    def trainers(self, raylet: psutil.Process | None = None) -> list[psutil.Process]:
        """Those that run an attempt."""
        return [each for each in self.workers(raylet) if _title(each).startswith("ray::Worker")]

    def second(self) -> psutil.Process:
        """The node process of the node that is not the head and lives."""
        return next(each for each in self.raylets[:0:-1] if each.is_running())

    def end(self) -> None:
        """End every process of it, whatever state it is in."""
        while left := belonging(self.tag, str(self.folder), os.getpid()):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.host is not None:
            self.host.wait()
            for pipe in (self.host.stdin, self.host.stdout):
                assert pipe is not None
                pipe.close()

    def _hear(self) -> dict[str, Any]:
        assert self.host is not None
        assert self.host.stdout is not None
        for line in self.host.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
        raise RuntimeError("the Ray of two nodes did not start")


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        title = process.cmdline()[:1]
        if title and title[0].startswith(("ray::Worker", "ray::Inbox")):
            return str(title[0])
    return ""


@contextmanager
def two_nodes(home: Path) -> Iterator[TwoNodes]:
    """Such a Ray; nothing of it is left after the block."""
    with tempfile.TemporaryDirectory(prefix="orc-") as folder:  # sockets allow 107 characters
        nodes = TwoNodes(home, Path(folder), secrets.token_hex(8))
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.end()


def _keep(folder: str) -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": GPUS, "object_store_memory": 80 * 1024**2}
    head = {**node, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    _tell(cluster.head_node, address=cluster.address, gcs=_pid(cluster.head_node, "gcs_server"))
    for _ in sys.stdin:
        _tell(cluster.add_node(**node))
    cluster.shutdown()


def _tell(node: Any, **more: object) -> None:
    sys.stdout.write(json.dumps({"raylet": _pid(node, "raylet"), **more}) + "\n")
    sys.stdout.flush()


def _pid(node: Any, kind: str) -> int:
    return int(node.all_processes[kind][0].process.pid)


if __name__ == "__main__":
    _keep(sys.argv[1])
