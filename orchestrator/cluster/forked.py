"""Asks a fork server for processes; run by its path it is how a Ray of ours starts its workers.

Ray's node calls it as `python forked.py WORKER ARGUMENTS`, and takes it for the worker: it stays
for as long as the forked process, and one is not there without the other. Without a fork server it
becomes the worker itself. That alone saves half a second: Ray's own script in this place imports
Ray, and then starts Python once more. It imports nothing but the standard library, to be small.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["SERVER_NAME", "die_with_parent", "exit_code", "forked", "run_forked"]

SERVER_NAME = "ORC_FORK_SERVER"
"""The variable that tells a Ray's processes where the socket of the fork server is."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CONTEXT = "--serialized-runtime-env-context"  # what a run of somebody else asks Ray to set up


def forked(
    server: str,
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: str,
    files: Sequence[int] = (0, 1, 2),
) -> socket.socket:
    """Have a process made by a fork server; it is killed when what is returned is closed.

    Args:
        server: Path of its socket.
        words: As Python would be called: a file or `-m` and a module, and their arguments.
        environment: All variables of the process.
        folder: Where it works.
        files: Descriptors that become its standard input, output and error.

    Raises:
        OSError: There is no such server.
    """
    job = {"words": list(words), "environment": dict(environment), "folder": folder}
    text = json.dumps(job).encode()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(server)
        socket.send_fds(connection, [struct.pack("<I", len(text))], files)
        connection.sendall(text)
    except OSError:
        connection.close()
        raise
    return connection


def exit_code(connection: socket.socket) -> int | None:
    """Wait for the end of a forked process; None where its server ended first.

    Returns:
        As `subprocess`: negative for a signal.

    Raises:
        TimeoutError: It takes longer than the connection's timeout.
    """
    try:
        text = connection.recv(64)
    except ConnectionError:
        text = b""
    return int(text) if text else None


def run_forked(
    server: str,
    words: Sequence[str],
    *,
    text: str,
    environment: Mapping[str, str],
    folder: str,
    timeout: float,
) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` with `text` as input and captured output, by a fork server.

    Raises:
        OSError: There is no such server, or it ended meanwhile.
        subprocess.TimeoutExpired: The process was killed after so many seconds; has its output.
    """
    with (
        tempfile.TemporaryFile(dir=folder) as given,
        tempfile.TemporaryFile(dir=folder) as out,
        tempfile.TemporaryFile(dir=folder) as errors,
    ):
        given.write(text.encode())
        given.seek(0)
        files = (given.fileno(), out.fileno(), errors.fileno())
        asked = forked(server, words, environment=environment, folder=folder, files=files)
        code: int | None
        is_late = False
        with asked:
            asked.settimeout(timeout)
            try:
                code = exit_code(asked)
            except TimeoutError:
                code, is_late = None, True
        out.seek(0)
        errors.seek(0)
        told, complaints = out.read().decode(), errors.read().decode(errors="replace")
    if is_late:
        raise subprocess.TimeoutExpired(list(words), timeout, told.encode())
    if code is None:
        raise ConnectionResetError(f"the fork server at {server} ended")
    return subprocess.CompletedProcess(list(words), code, told, complaints)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that one ends."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended between the two calls, so no signal will come
        os.kill(os.getpid(), signal.SIGKILL)


def _main(words: list[str]) -> int:
    server = os.environ.get(SERVER_NAME)
    if any(word.startswith(_CONTEXT) for word in words):  # as Ray would have done
        words = [str(Path(words[0]).with_name("setup_worker.py")), *words]
        server = None
    else:  # Ray tells its own script, and nobody else, which language it is
        words = [word for word in words if not word.startswith("--language=")]
    if server:
        with suppress(OSError):  # it has ended: the worker starts slowly, then
            return _stand_in(server, words)
    return os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - our own command


def _stand_in(server: str, words: list[str]) -> int:
    """Be there for as long as the forked worker."""
    with forked(server, words, environment=os.environ, folder=str(Path.cwd())) as asked:
        die_with_parent()
        code = exit_code(asked)
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
