"""Exit codes of jobs, addresses of job servers, and what answers there that is no Ray."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster.address import job_url, lets_anyone_in
from orchestrator.cluster.job import JobState
from orchestrator.cluster.jobs import server_of
from orchestrator.errors import ClusterError


@pytest.mark.parametrize(
    ("status", "driver_code", "error", "code"),
    [
        ("SUCCEEDED", 0, "", 0),
        ("STOPPED", None, "", 9),
        ("STOPPED", 0, "", 9),
        ("FAILED", 1, "JOB_ENTRYPOINT_COMMAND_ERROR", 1),
        ("FAILED", 5, "JOB_ENTRYPOINT_COMMAND_ERROR", 5),
        ("FAILED", 75, "JOB_ENTRYPOINT_COMMAND_ERROR", 75),
        ("FAILED", -9, "JOB_ENTRYPOINT_COMMAND_ERROR", 137),
        ("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", 75),
        ("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE", 6),
    ],
)
def test_how_a_job_ended_is_its_exit_code(
    status: str, driver_code: int | None, error: str, code: int
) -> None:
    state = JobState(submission_id="j", status=status, driver_code=driver_code, error=error)
    assert state.has_ended
    assert state.exit_code == code


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head", "http://head:8265"),
        ("10.0.0.5:9000", "http://10.0.0.5:9000"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.lab", "https://ray.lab:443"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_becomes_a_url(address: str, url: str) -> None:
    assert job_url(address) == url


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "http://", "ftp://head", "http://me:pass@head", "head:port", ""]
)
def test_what_is_no_address_is_refused_and_no_password_is_repeated(address: str) -> None:
    with pytest.raises(ClusterError) as info:
        job_url(address)
    assert info.value.code == "E4002"
    assert "pass" not in str(info.value)


class _Other(BaseHTTPRequestHandler):
    """A web server that is no Ray."""

    status = 200

    def do_GET(self) -> None:
        body = b"<html>hello</html>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def other() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def test_a_web_server_that_is_no_ray_is_told_apart(other: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as info:
        server_of(other, tmp_path)
    assert (info.value.code, info.value.exit_code) == ("E4009", 6)


@pytest.mark.parametrize(("status", "is_open"), [(200, True), (401, False)])
def test_a_job_server_that_asks_for_no_token_is_seen(
    other: str, status: int, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Other, "status", status)
    assert lets_anyone_in(other) is is_open


def test_a_head_that_is_gone_is_told_at_once(other: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as info:
        server_of("127.0.0.1:1", tmp_path)
    assert (info.value.code, info.value.exit_code) == ("E4001", 6)
