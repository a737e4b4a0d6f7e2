"""Addresses of Rays and of their job servers: what is one, and whether anybody answers."""

import socket
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import build_opener

from orchestrator.cluster.tokens import ADMISSION_FIX
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.types import Seconds

__all__ = [
    "demand_address",
    "demand_answer",
    "free_port",
    "job_url",
    "lets_anyone_in",
    "listening_port",
]

_CONNECT_SECONDS: Seconds = 5.0


def demand_address(address: str) -> tuple[str, int]:
    """The host and the port that `host:port` names.

    Raises:
        ClusterError: E4002, it names none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ClusterError(
            f"{address} is not an address of Ray",
            code="E4002",
            fix=("auto, or host:port, such as 10.0.0.5:6379",),
        )
    return host.strip("[]"), int(port)


def demand_answer(address: str) -> None:
    """Return when somebody listens at `host:port`.

    Raises:
        ClusterError: E4001, nobody does; E4002, it is no address.
    """
    try:
        socket.create_connection(demand_address(address), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"Ray at {address} does not answer",
            code="E4001",
            why=(str(error),),
            fix=("ray status, on that machine", ADMISSION_FIX),
        ) from error


def listening_port(wanted: int | None, usual: int, host: str) -> int:
    """The port that was asked for, or the usual one, or any that is free.

    Raises:
        ConfigError: E1080, nothing can listen there.
    """
    for port in (wanted,) if wanted else (usual, 0):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if wanted or port == 0:
                    raise ConfigError(
                        f"nothing can listen on {host}, port {port}",
                        code="E1080",
                        why=(str(error),),
                        fix=("leave the port out: a free one is taken", "--host IP of this host"),
                    ) from error
            else:
                return int(probe.getsockname()[1])
    raise AssertionError("the last try either returned or raised")


def free_port() -> int:
    """A port of the loopback interface on which nobody listened a moment ago."""
    return listening_port(None, 0, "127.0.0.1")


def job_url(address: str) -> str:
    """The URL of the job server that `HOST:PORT` or `http://HOST:PORT` names.

    Raises:
        ClusterError: E4002, it names none.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ClusterError(
            f"{_without_secret(address)} is not the address of a job server",
            code="E4002",
            why=("a driver has to run inside the cluster, so that ray:// cannot do",)
            if address.startswith("ray:")
            else (),
            fix=("http://HEAD:8265, as `orc up` or `ray start` on the head says",),
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = 443 if parts.scheme == "https" else 8265
    return f"{parts.scheme}://{host}:{port or default}"


def lets_anyone_in(url: str) -> bool:
    """True for a job server that answers who shows no token: he may run what he likes there."""
    try:
        build_opener().open(f"{url}/api/version", timeout=_CONNECT_SECONDS).close()
    except (URLError, OSError):  # 401 is one of them
        return False
    return True


def _without_secret(address: str) -> str:
    return address.rpartition("@")[2][:120]
