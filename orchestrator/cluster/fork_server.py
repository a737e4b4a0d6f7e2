"""A process that has imported what many will need, and forks into each of them when asked.

Importing torch takes three seconds of a processor, and as many again in each process. Forked from
one that has it, a process has it at once, and shares the memory of it.
"""

import gc
import json
import os
import random
import runpy
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.cluster.forked import die_with_parent
from orchestrator.cluster.leaving import leave
from orchestrator.types import Seconds

__all__ = ["ForkServer", "Job", "become", "fork_server", "serve"]

_LEAVE_SECONDS: Seconds = 5.0
_WAITING = 64  # who may ask while it imports


@dataclass(frozen=True, slots=True)
class ForkServer:
    """A server that was started here. It lives until every holder of its lifeline has ended."""

    path: str
    lifeline: int


@dataclass(frozen=True, slots=True)
class Job:
    """What a forked process is to be."""

    words: tuple[str, ...]
    environment: dict[str, str]
    folder: str


@contextmanager
def fork_server(command: Sequence[str]) -> Iterator[ForkServer]:
    """Start a server; it can be asked at once, and answers when it is ready.

    It leaves with this process, unless another one has been handed the descriptor of its lifeline:
    then when that one has ended, too.

    Args:
        command: Starts it; a socket, its path and the other end of the lifeline are added.
    """
    folder = Path(tempfile.mkdtemp(prefix="orc-"))  # short: Unix sockets allow 107 characters
    read, write = os.pipe()
    process = _started(command, str(folder / "fork"), read)
    os.close(read)
    try:
        yield ForkServer(str(folder / "fork"), write)
    finally:
        os.close(write)
        with suppress(subprocess.TimeoutExpired):  # somebody else still holds it
            process.wait(_LEAVE_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)  # also where it was killed


def _started(command: Sequence[str], path: str, lifeline: int) -> "subprocess.Popen[bytes]":
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(_WAITING)
        return subprocess.Popen(  # noqa: S603 - our own command
            [*command, str(listening.fileno()), path, str(lifeline)],
            pass_fds=(listening.fileno(), lifeline),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for who started it
            # a library that starts threads when it is imported does not survive a fork
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"},
        )


def serve(
    listening: int,
    path: str,
    lifeline: int,
    get_ready: Callable[[], None],
    *,
    later: Sequence[Callable[[], object]] = (),
    early: tuple[str, ...] = (),
) -> Job | None:
    """Fork whenever somebody asks, until the lifeline is let go.

    Args:
        listening: The descriptor of the socket at `path`.
        path: Removed, with its folder, at the end.
        lifeline: A descriptor that tells its end when nobody holds the other one.
        get_ready: Imports; it may start no threads, and touch no card.
        later: Import what processes with the words `early` do not need: those are forked in
            between, the others after all of it.
        early: The words of a process that others wait for.

    Returns:
        In each forked process what it is to be; None in the server, at its end.
    """
    get_ready()
    server = _Server(listening, lifeline)
    for get_more in later:
        gc.freeze()
        if (found := server.fork_early(early)) is not None:
            return found
        get_more()
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # no collection touches, and so copies, what all of them share
    found = server.run()
    if found is None:
        shutil.rmtree(Path(path).parent, ignore_errors=True)
    return found


def become(job: Job) -> NoReturn:
    """Run what a forked process is to be, as Python would have, and end with it."""
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    random.seed()  # its siblings have the same state
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    first, *rest = job.words
    code: Any = None
    try:
        if first == "-m":
            sys.argv = list(rest)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(job.words)
            runpy.run_path(first, run_name="__main__")
    except SystemExit as asked:
        code = asked.code
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    leave(code or 0)


class _Server:
    def __init__(self, listening: int, lifeline: int) -> None:
        self._listening = socket.socket(fileno=listening)
        self._lifeline = lifeline
        self._selector = selectors.DefaultSelector()
        self._asked: dict[int, socket.socket] = {}  # by process id: who asked for it
        self._ends: dict[int, int] = {}  # by process id: a descriptor that tells its end
        self._late: list[tuple[socket.socket, Job, list[int]]] = []  # asked for, not forked yet

    def fork_early(self, words: tuple[str, ...]) -> Job | None:
        """Fork what has been asked for with these words; the rest waits until `run`."""
        while select.select([self._listening], [], [], 0)[0]:
            job = self._accept(words)
            if job is not None:
                return job
        return None

    def run(self) -> Job | None:
        self._watch(self._listening, self._accept)
        self._watch(self._lifeline, None)
        while self._late:
            job = self._fork(*self._late.pop(0))
            if job is not None:
                return job
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._end_all()
                    return None
                job = key.data()
                if job is not None:
                    return job

    def _watch(self, file: Any, react: Callable[[], Job | None] | None) -> None:
        self._selector.register(file, selectors.EVENT_READ, react)

    def _accept(self, only: tuple[str, ...] = ()) -> Job | None:
        connection, _ = self._listening.accept()
        files: list[int] = []
        try:
            job = _read(connection, files)
        except (OSError, ValueError, KeyError):  # who asked has gone, or is none of ours
            _close(connection, files)
            return None
        if only and job.words != only:
            self._late.append((connection, job, files))
            return None
        return self._fork(connection, job, files)

    def _fork(self, connection: socket.socket, job: Job, files: list[int]) -> Job | None:
        try:
            pid = os.fork()
        except OSError:
            _close(connection, files)
            return None
        if pid == 0:
            die_with_parent()
            os.setpgid(0, 0)  # Ray's node ends the whole group of a worker
            self._let_go()
            connection.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
            _close(connection, files)
            return job
        for file in files:
            os.close(file)
        self._asked[pid], self._ends[pid] = connection, os.pidfd_open(pid)
        self._watch(connection, lambda: self._abandoned(pid))
        self._watch(self._ends[pid], lambda: self._ended(pid))
        return None

    def _abandoned(self, pid: int) -> None:
        """Who asked for a process has gone: it is killed, and its end is told by the kernel."""
        connection = self._asked.get(pid)
        if connection is None:  # it has ended at the same time
            return
        self._selector.unregister(connection)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _ended(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        end, connection = self._ends.pop(pid), self._asked.pop(pid)
        self._selector.unregister(end)
        os.close(end)
        with suppress(KeyError):  # not watched any more: abandoned
            self._selector.unregister(connection)
        with suppress(OSError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        connection.close()

    def _end_all(self) -> None:
        for pid in tuple(self._ends):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._ended(pid)

    def _let_go(self) -> None:
        """Close what is the server's: a fork that had it, too, would keep others from an end."""
        self._selector.close()
        for each in (self._listening, *self._asked.values()):
            each.close()
        for end in (self._lifeline, *self._ends.values()):
            os.close(end)
        for connection, _, files in self._late:
            _close(connection, files)


def _close(connection: socket.socket, files: Sequence[int]) -> None:
    connection.close()
    for file in files:
        os.close(file)


def _read(connection: socket.socket, files: list[int]) -> Job:
    connection.settimeout(_LEAVE_SECONDS)
    head, fds, _, _ = socket.recv_fds(connection, struct.calcsize("<I"), 3)
    files += fds
    (left,) = struct.unpack("<I", head)
    parts = []
    while left:
        part = connection.recv(left)
        if not part:
            raise ValueError("who asked has gone")
        parts.append(part)
        left -= len(part)
    connection.settimeout(None)
    told = json.loads(b"".join(parts))
    return Job(tuple(told["words"]), dict(told["environment"]), str(told["folder"]))
