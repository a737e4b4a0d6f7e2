"""Starting a Ray that stays, as `orc up` does: a head of our own, or nodes that join another's."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Pause
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from orchestrator.cluster.address import listening_port
from orchestrator.cluster.down import end_processes
from orchestrator.cluster.guard import TAG_NAME as DRIVER_TAG_NAME
from orchestrator.cluster.layout import NodePlan
from orchestrator.cluster.running import (
    LOOPBACK_NAME,
    TAG_NAME,
    RunningRay,
    lock_of,
    read_running,
    write_running,
)
from orchestrator.cluster.session import RAY_ENVIRONMENT
from orchestrator.cluster.tokens import joined_token, token_file
from orchestrator.errors import ClusterError
from orchestrator.types import Seconds

__all__ = ["RayWish", "start_ray"]

_OBJECT_STORE_BYTES = 80 * 1024 * 1024  # as `cluster.session` has it, a node
_STOP_SECONDS = 600  # what a job that is stopped gets to save its epoch; Ray's own value is 3
_START_SECONDS: Seconds = 180.0
_POLL: Seconds = 0.2
_TAIL = 8  # lines of what Ray said that are told
_USUAL_PORTS = {"port": 6379, "dashboard": 8265, "client": 10001}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayWish:
    """What `orc up` was asked for.

    Attributes:
        plans: The Ray nodes of this machine.
        address: The head to join, `host:port`; None makes this machine the head.
        host: This machine's address for others; None listens on the loopback interface alone.
        port: Of the head's control process; None takes a free one, 6379 first.
        dashboard_port: Of the job server; None takes a free one, 8265 first.
    """

    plans: tuple[NodePlan, ...]
    address: str | None = None
    host: str | None = None
    port: int | None = None
    dashboard_port: int | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """As plain values; what was left open is None."""
        return {
            "address": self.address,
            "host": self.host,
            "port": self.port,
            "dashboard_port": self.dashboard_port,
            "nodes": [_told(plan) for plan in self.plans],
        }


def start_ray(wish: RayWish, home: Path) -> tuple[RunningRay, bool]:
    """Start what is wished for, unless it runs already; returns it, and whether it was started.

    Args:
        wish: What to start.
        home: Where the record and the token are kept.

    Raises:
        ClusterError: E4011, something else runs here; E4006, Ray did not start; E4003, no token
            for a head elsewhere, or a wrong one; E4014, another command is at it.
        ConfigError: E1080, a port is taken.
    """
    with lock_of(home):
        known = read_running(home)
        if known is not None and known.processes():
            _demand_same(known, wish)
            return known, False
        if known is not None and known.folder:  # of a Ray that went with a restart of the machine
            shutil.rmtree(known.folder, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix="orc-") if wish.address is None else ""
        running = _begun(wish, home, folder)
        write_running(home, running)  # before anything starts, so that `orc down` finds it
        try:
            for number, plan in enumerate(wish.plans):
                _start_node(running, wish, plan, home, is_head=not wish.address and number == 0)
            if running.dashboard is not None:
                _await_job_server(running.dashboard)
        except BaseException:
            end_processes(running)
            write_running(home, None)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return running, True


def _demand_same(known: RunningRay, wish: RayWish) -> None:
    if not known.is_answering():
        raise ClusterError(
            "the Ray that was started here does not answer any more",
            code="E4011",
            why=(f"{len(known.processes())} of its processes are left; {known.address} is silent",),
            fix=("orc down, then orc up",),
        )
    if known.asked != wish.asked:
        raise ClusterError(
            "another Ray was started here, with other options",
            code="E4011",
            why=(f"asked then: {_words(known.asked)}", f"asked now: {_words(wish.asked)}"),
            fix=("orc down first; what runs: orc up --status",),
        )


def _begun(wish: RayWish, home: Path, folder: str) -> RunningRay:
    host = wish.host or "127.0.0.1"
    if wish.address is not None:
        address, dashboard, token = wish.address, None, joined_token(home)
    else:
        ports = {
            "port": listening_port(wish.port, _USUAL_PORTS["port"], host),
            "dashboard": listening_port(wish.dashboard_port, _USUAL_PORTS["dashboard"], host),
        }
        address, dashboard = f"{host}:{ports['port']}", f"http://{host}:{ports['dashboard']}"
        token = token_file(home)
    return RunningRay(
        address=address,
        dashboard=dashboard,
        token_path=str(token),
        folder=folder,
        tag=secrets.token_hex(8),
        asked=wish.asked,
        nodes=tuple(_told(plan) for plan in wish.plans),
        started_at=time.time(),
    )


def _start_node(
    running: RunningRay, wish: RayWish, plan: NodePlan, home: Path, *, is_head: bool
) -> None:
    labels = ",".join(f"{key}={value}" for key, value in plan.labels.items())
    words = [
        *(_head_words(running, wish) if is_head else [f"--address={running.address}"]),
        *([f"--node-ip-address={wish.host}"] if wish.host else []),
        f"--num-cpus={plan.num_cpus}",
        f"--num-gpus={len(plan.cards)}",
        f"--memory={plan.memory_bytes}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--labels={labels}",
        # Free ones: several nodes of one machine would want the same.
        *(f"--{name}=0" for name in ("min-worker-port", "max-worker-port")),
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
    ]
    environment = _environment(running, plan, home)
    module = "ray.scripts.scripts"
    if running.is_loopback and not is_head:
        module = "orchestrator.cluster.loopback"
        del environment[LOOPBACK_NAME]
    path = home / "logs" / "up.log"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as log:
        begun = log.tell()
        try:
            code = subprocess.run(  # noqa: S603 - Ray's own command, by our own interpreter
                [sys.executable, "-m", module, "start", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # it outlives the terminal
                check=False,
                timeout=_START_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        raise _not_started(path, begun, code)


def _head_words(running: RunningRay, wish: RayWish) -> list[str]:
    dashboard = (running.dashboard or "").rpartition(":")
    host = running.address.rpartition(":")[0]
    return [
        "--head",
        f"--port={running.address.rpartition(':')[2]}",
        f"--dashboard-host={host}",
        f"--dashboard-port={dashboard[2]}",
        f"--ray-client-server-port={listening_port(None, _USUAL_PORTS['client'], host)}",
        f"--temp-dir={running.folder}",
        *(["--node-ip-address=127.0.0.1"] if wish.host is None else []),
    ]


def _environment(running: RunningRay, plan: NodePlan, home: Path) -> dict[str, str]:
    left_out = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS", DRIVER_TAG_NAME)
    wanted: Mapping[str, str | None] = {
        **os.environ,
        **RAY_ENVIRONMENT,
        **dict.fromkeys(left_out),
        **plan.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": running.token_path,
        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
        TAG_NAME: running.tag,
        # Commands of jobs say python, and mean this one.
        "ORC_PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ORC_HOME": str(home.resolve()),
        LOOPBACK_NAME: "0" if running.is_loopback else None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _not_started(log: Path, since: int, code: int) -> ClusterError:
    with log.open("rb") as file:
        file.seek(since)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    is_refused = any("AuthenticationError" in line or "InvalidAuthToken" in line for line in lines)
    told = ["it took too long"] if code < 0 else [line[:200] for line in lines[-_TAIL:]]
    return ClusterError(
        "Ray refuses the token" if is_refused else "Ray did not start",
        code="E4003" if is_refused else "E4006",
        why=(*told, f"all that it said: {log}"),
        fix=("copy the head's token: see orc up --help",) if is_refused else ("orc up, again",),
    )


def _await_job_server(url: str) -> None:
    """Return once the job server answers, which has to be that it wants a token."""
    until = time.monotonic() + _START_SECONDS
    opener = build_opener(ProxyHandler({}))  # a proxy would be asked for its own loopback
    while time.monotonic() < until:
        try:
            opener.open(f"{url}/api/version", timeout=5.0).close()
        except HTTPError as error:
            if error.code == 401:
                return
        except (URLError, OSError):
            pass  # it is not up yet; asked again until the time is over
        else:
            raise ClusterError(
                "Ray's job server lets everybody in, and was ended",
                code="E4007",
                why=(f"{url} answered without a token",),
                fix=("use a Ray that demands tokens: 2.59 or later",),
            )
        Pause().wait(_POLL)
    raise ClusterError(
        "Ray's job server did not start",
        code="E4006",
        why=(f"{url} was silent for {_START_SECONDS:.0f} s",),
        fix=("pip install 'ray[default]'", "orc up, again, on a machine that is less busy"),
    )


def _told(plan: NodePlan) -> dict[str, Any]:
    return {
        "kind": plan.kind,
        "gpus": [card.name for card in plan.cards],
        "emulated": plan.is_emulated,
        "cpus": plan.num_cpus,
        "memory_bytes": plan.memory_bytes,
        "labels": dict(plan.labels),
    }


def _words(asked: Mapping[str, Any]) -> str:
    gpus = [name for node in asked["nodes"] for name in node["gpus"]]
    given = [f"{k}={v}" for k, v in asked.items() if v is not None and k != "nodes"]
    return ", ".join([*given, f"{len(gpus)} GPU(s)", *gpus[:4]])
