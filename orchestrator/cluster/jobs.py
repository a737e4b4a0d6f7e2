"""Jobs on a Ray elsewhere through its job server: submitted once, followed, told truly."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event as Pause
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster.address import job_url
from orchestrator.cluster.job import JobState, JobWish
from orchestrator.cluster.running import read_running
from orchestrator.cluster.session import set_token_mode, use_token
from orchestrator.cluster.tokens import ADMISSION_FIX
from orchestrator.errors import ClusterError, ConflictError, NotFoundError, PlanError
from orchestrator.types import Seconds

__all__ = ["BODY_NAME", "JobServer", "server_of"]

BODY_NAME = "orchestrator.body"  # in a job's metadata: the hash of all that was asked for
_CONNECT_SECONDS: Seconds = 5.0
_ANSWER_SECONDS: Seconds = 60.0  # of one request; an upload is one
_PAUSES: tuple[Seconds, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0)
_POLL: Seconds = 1.0
_SILENT_SECONDS: Seconds = 30.0  # a head that is restarted is back by then
_PASSING = ("E4001", "E4009", "E4013")  # what a head says that is about to end or to start


def server_of(address: str, home: Path) -> "JobServer":
    """The job server at an address, with the token that the environment or `orc up` names.

    Raises:
        ClusterError: E4001, nobody answers; E4002, not an address; E4003, the token is missing or
            wrong; E4009, not a Ray.
    """
    url = job_url(address)
    running = read_running(home)
    is_named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if running is not None and running.serves(url) and not is_named:
        use_token(Path(running.token_path))
    else:
        set_token_mode()
    return JobServer(url)


class JobServer:
    """Ray's job server; every failure is one clear error.

    Args:
        url: Where it is.
        pause: Waits between two tries or looks; takes seconds.

    Raises:
        ClusterError: As `server_of`.
    """

    def __init__(self, url: str, *, pause: Callable[[Seconds], object] | None = None) -> None:
        self.url = url
        self._wait = pause or Pause().wait
        self._reach()
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they would replace the URL
            os.environ.pop(name, None)
        with self._told():
            self._client = _client(url)

    def submit(self, wish: JobWish, say: Callable[[str], None]) -> bool:
        """Have a job run; False where it was submitted before. Tries again while Ray starts.

        Raises:
            ConflictError: E5009, the same id stands for something else.
            ClusterError: As `server_of`; E4013, Ray does not take it.
            PlanError: E2003, no node has the CPUs for its driver.
        """
        if wish.num_cpus is not None:
            self._demand_cpus(wish.num_cpus)
        if self._is_known(wish):
            return False
        for pause in (*_PAUSES, None):
            with self._told():
                try:
                    self._client.submit_job(
                        entrypoint=wish.entrypoint,
                        submission_id=wish.submission_id,
                        runtime_env={
                            "working_dir": str(wish.folder),
                            "env_vars": dict(wish.variables),
                        },
                        metadata={**wish.metadata, BODY_NAME: wish.body},
                        entrypoint_num_cpus=wish.num_cpus,
                    )
                except RuntimeError as error:
                    if self._is_known(wish):  # the answer to an earlier try was lost, or a race
                        return False
                    if pause is None or "No available agent" not in str(error):
                        raise _refused("Ray does not take the job", error) from error
                    say(f"Ray is not ready for jobs yet; again in {pause:g} s")
                else:
                    return True
            self._wait(pause)
        raise AssertionError("the last try returned or raised")

    def state(self, submission_id: str) -> JobState:
        """How a job is.

        Raises:
            NotFoundError: E5022, there is none of this id.
            ClusterError: As `server_of`.
        """
        with self._told():
            try:
                told = self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if "404" not in str(error):
                    raise
                raise NotFoundError(
                    f"there is no job {submission_id} at {self.url}",
                    code="E5022",
                    fix=("submit it: orc submit --address ADDRESS CONFIG",),
                ) from error
        return JobState(
            submission_id=submission_id,
            status=str(told.status.value),
            message=told.message or "",
            error=str(getattr(told.error_type, "value", told.error_type) or ""),
            driver_code=told.driver_exit_code,
            body=(told.metadata or {}).get(BODY_NAME),
        )

    def follow(self, submission_id: str, write: Callable[[str], None]) -> JobState:
        """Write what a job prints until it has ended; returns how. A short silence is bridged.

        Raises:
            NotFoundError: E5022, there is none of this id.
            ClusterError: As `server_of`, once the server has been silent for half a minute.
        """
        num_told, silent = 0, 0.0
        while True:
            try:
                state = self.state(submission_id)
                if state.status != "PENDING":
                    num_told = self._tail(submission_id, write, num_told)
                    state = self.state(submission_id)
            except ClusterError as error:
                if error.code not in _PASSING or silent >= _SILENT_SECONDS:
                    raise
                silent += _POLL
            else:
                silent = 0.0
                if state.has_ended:
                    return state
            self._wait(_POLL)

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end: its runs are saved first. False where it has ended already."""
        self.state(submission_id)
        with self._told():
            return bool(self._client.stop_job(submission_id))

    def _tail(self, submission_id: str, write: Callable[[str], None], num_told: int) -> int:
        """Write what comes after the first `num_told` characters; returns how many there are."""

        async def read() -> None:
            nonlocal num_told
            num_seen = 0
            async for text in self._client.tail_job_logs(submission_id):
                num_new = min(len(text), max(0, num_seen + len(text) - num_told))
                num_seen += len(text)
                if num_new:
                    write(text[len(text) - num_new :])
                    num_told += num_new

        with self._told(), suppress(RuntimeError):  # cut off: the state is asked, and tailed again
            asyncio.run(read())
        return num_told

    def _is_known(self, wish: JobWish) -> bool:
        try:
            known = self.state(wish.submission_id)
        except NotFoundError:
            return False
        if known.body != wish.body:
            raise ConflictError(
                f"the job {wish.submission_id} was submitted before, and is not the same",
                code="E5009",
                why=(f"it is {known.status}; config, code, words or options differ",),
                fix=(
                    "another --key for something else",
                    "to follow that job: the same command without CONFIG",
                ),
            )
        return True

    def _demand_cpus(self, num_cpus: float) -> None:
        """Refuse what would wait for ever: such a job could not even be deleted."""
        with self._told():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000").json()
        nodes = [n for n in answer["data"]["result"]["result"] if n["state"] == "ALIVE"]
        most = max((float(n["resources_total"].get("CPU", 0)) for n in nodes), default=0.0)
        if num_cpus > most:
            raise PlanError(
                f"no node has {num_cpus:g} CPUs for the job's driver",
                code="E2003",
                why=(f"the largest of {len(nodes)} node(s) has {most:g}",),
                fix=("leave --driver-cpus out: the driver then runs on the head, uncounted",),
            )

    def _reach(self) -> None:
        parts = urlsplit(self.url)
        try:
            place = (parts.hostname or "", parts.port or 0)
            socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise self._silent(str(error)) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn whatever goes wrong with the server into an error of ours."""
        import aiohttp
        import ray
        import requests

        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise _unadmitted(self.url, str(error)) from None  # its text has Ray's environment
        except (requests.exceptions.Timeout, TimeoutError) as error:
            raise self._silent(f"no answer within {_ANSWER_SECONDS:.0f} s") from error
        except (ConnectionError, requests.exceptions.ConnectionError, aiohttp.ClientError) as error:
            self._reach()  # where nobody listens, that says so
            raise self._strange(error) from error
        except (requests.exceptions.RequestException, ValueError, KeyError) as error:
            raise self._strange(error) from error
        except RuntimeError as error:  # Ray's answer was neither success nor anything known
            raise _refused("Ray's job server failed", error) from error

    def _silent(self, why: str) -> ClusterError:
        return ClusterError(
            f"no job server answers at {self.url}",
            code="E4001",
            why=(why,),
            fix=(
                "is the head up? there: orc up --status, or ray status",
                "its job server listens on 127.0.0.1 unless the head says otherwise:"
                " orc up --host IP, or ssh -L 8265:127.0.0.1:8265 HEAD",
            ),
        )

    def _strange(self, error: Exception) -> ClusterError:
        return ClusterError(
            f"what answers at {self.url} is not Ray's job server",
            code="E4009",
            why=(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",),
            fix=("the address of Ray's dashboard is meant: http://HEAD:8265",),
        )


def _client(url: str) -> Any:
    from ray.dashboard.modules import dashboard_sdk
    from ray.job_submission import JobSubmissionClient

    for name in (dashboard_sdk.__name__, "ray.dashboard.modules.job.sdk", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what matters is told by us

    class Client(JobSubmissionClient):
        """Ray's, but a server that says nothing is not waited for without end."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            options.setdefault("timeout", (_CONNECT_SECONDS, _ANSWER_SECONDS))
            return super()._do_request(method, endpoint, **options)

    return Client(url)


def _unadmitted(url: str, text: str) -> ClusterError:
    is_wrong = "Authentication failed" in text
    return ClusterError(
        f"Ray at {url} lets nobody in without its token",
        code="E4003",
        why=("the token that was shown is wrong" if is_wrong else "no token was shown",),
        fix=(ADMISSION_FIX,),
    )


def _refused(what: str, error: Exception) -> ClusterError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ClusterError(
        what,
        code="E4013",
        why=tuple(line[:200] for line in (*lines[:1], *lines[1:][-2:])),
        fix=("again in a minute; if it stays so: the logs of the head's dashboard",),
    )
