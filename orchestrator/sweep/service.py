"""The driver that trains a sweep's runs: the one there is, or one of the sweep's own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event as Pause
from types import TracebackType
from typing import Self

from orchestrator.client.access import Client
from orchestrator.cluster.fork_server import ForkServer
from orchestrator.cluster.forked import SERVER_NAME
from orchestrator.errors import ClusterError
from orchestrator.types import Node, Seconds

__all__ = ["Service", "serve_command"]

_POLL: Seconds = 0.1
_START_SECONDS: Seconds = 120.0
_LEAVE_SECONDS: Seconds = 60.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL = 8


def serve_command(
    client: Client, emulate: Sequence[str], address: str | None, expected: str = ""
) -> list[str]:
    """The command of a driver for this store, to which `TRAINER:COUNT` runs will come soon."""
    words = [sys.executable, "-m", "orchestrator", "serve", "--home", str(client.home)]
    if emulate:
        words += ["--emulate-gpus", ",".join(emulate)]
    if expected:
        words += ["--expect", expected]
    return [*words, "--address", address] if address else words


class Service:
    """While inside, somebody drives the store; a driver of our own leaves with us.

    Args:
        client: Of the store.
        command: Starts a driver where there is none.
        said: Told what happens.
        forks: A fork server for the workers of a Ray that the driver starts.
    """

    def __init__(
        self,
        client: Client,
        command: Sequence[str],
        said: Callable[[str], None],
        forks: ForkServer | None = None,
    ) -> None:
        self._client = client
        self._command = list(command)
        self._said = said
        self._forks = forks
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.ensure()
        except BaseException:  # nobody else would end what was started
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)  # its gangs save first
        try:
            process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ensure(self) -> None:
        """Start a driver where there is none (any more).

        Raises:
            ClusterError: E4010, it does not start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if self._client.driver() is not None:
            return
        self._said("starting a driver" if self._process is None else "the driver died; another one")
        forks = self._forks
        log = self._client.home / "logs" / "serve.log"
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the sweep
                env=os.environ | ({} if forks is None else {SERVER_NAME: forks.path}),
                # its runs save before it leaves, also where this process was killed
                pass_fds=() if forks is None else (forks.lifeline,),
                preexec_fn=_leave_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        self._until_it_has_nodes()

    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the driver."""
        return self._client.nodes()

    def _until_it_has_nodes(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        with self._client.store() as store:
            while time.monotonic() < until:
                driver = store.driver()
                if driver is None and self._process.poll() is not None:
                    break
                if driver is not None and store.nodes():
                    return
                Pause().wait(_POLL)
        path = self._client.home / "logs" / "serve.log"
        lines: list[str] = []
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()[-_TAIL:]
        raise ClusterError(
            "the driver of the sweep did not start", code="E4010", why=lines, fix=(f"see {path}",)
        )


def _leave_with_parent() -> None:
    """Let the kernel ask the driver to leave when the sweep's process is gone."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent == 1:
        os._exit(1)
