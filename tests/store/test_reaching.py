"""A store that cannot keep runs is refused within seconds, with what is wrong and what to do."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.store.reaching import demand_usable
from orchestrator.store.remote import RemoteFolder

NOWHERE = {"AWS_EC2_METADATA_DISABLED": "true", "GCE_METADATA_HOST": "127.0.0.1:9", "HOME": "/none"}
S3 = "s3://bucket/runs"


def refused(address: str, **others: Any) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        demand_usable(address, **{"environment": NOWHERE, **others})
    assert caught.value.why
    assert caught.value.fix
    assert "Traceback" not in " ".join(caught.value.why)
    return caught.value


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    demand_usable(f"file://{tmp_path}/runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    error = refused("file:///proc/none/runs")
    assert (error.code, error.exit_code) == ("E1045", 2)


@pytest.mark.parametrize("address", [S3, "gs://bucket/runs", "gcs://bucket/runs"])
def test_an_address_without_credentials_is_refused_before_its_client_looks(address: str) -> None:
    def never(*_: object, **__: object) -> RemoteFolder:
        raise AssertionError("the store was asked")

    error = refused(address, open_=never)
    assert (error.code, error.exit_code) == ("E1043", 2)
    assert "every node" in " ".join(error.fix)


@pytest.mark.parametrize(
    "known",
    [
        {"AWS_ACCESS_KEY_ID": "x"},
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/role"},
        {"AWS_SHARED_CREDENTIALS_FILE": __file__},
    ],
)
def test_credentials_are_found_wherever_the_client_finds_them(
    known: dict[str, str], tmp_path: Path
) -> None:
    def local(address: str, **words: Any) -> RemoteFolder:
        return RemoteFolder(address, open_=lambda _: (LocalFileSystem(), str(tmp_path)), **words)

    demand_usable(S3, environment={**NOWHERE, **known}, open_=local)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "its probe is gone"


class Metadata(BaseHTTPRequestHandler):
    """A machine of the cloud that tells of itself, or something else at its address."""

    status = 200

    def do_PUT(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "has_role"), [(200, True), (404, False)])
def test_a_machine_of_the_cloud_may_have_a_role(
    metadata: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, has_role: bool
) -> None:
    def local(address: str, **words: Any) -> RemoteFolder:
        return RemoteFolder(address, open_=lambda _: (LocalFileSystem(), str(tmp_path)), **words)

    monkeypatch.setattr(Metadata, "status", status)
    environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata, "HOME": "/none"}
    if has_role:
        demand_usable(S3, environment=environment, open_=local)
    else:
        assert refused(S3, environment=environment, open_=local).code == "E1043"


def saying(text: str) -> Callable[..., RemoteFolder]:
    def opened(_: str) -> tuple[Any, str]:
        raise OSError(text)

    return lambda address, **words: RemoteFolder(address, open_=opened, **words)


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        ("When resolving region for bucket 'b': Bucket 'b' not found", "E1044", 2),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", "E1044", 2),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", "E1045", 2),
        ("AWS Error UNKNOWN (HTTP status 403): InvalidAccessKeyId", "E1045", 2),
        ("AWS Error NETWORK_CONNECTION: Could not resolve hostname", "E5051", 1),
    ],
)
def test_what_a_store_says_is_explained(text: str, code: str, exit_code: int) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "x"}
    error = refused(S3, environment=environment, open_=saying(text))
    assert (error.code, error.exit_code) == (code, exit_code)
    assert text in error.why[0]


def test_a_store_that_does_not_answer_is_not_waited_for() -> None:
    ended = threading.Event()

    def opened(_: str) -> tuple[Any, str]:
        ended.wait()
        raise OSError("at last")

    def stuck(address: str, **words: Any) -> RemoteFolder:
        return RemoteFolder(address, open_=opened, **words)

    error = refused(S3, environment={"AWS_ACCESS_KEY_ID": "x"}, open_=stuck, seconds=0.05)
    ended.set()
    assert error.code == "E5051"


def test_an_unknown_kind_of_address_that_reaches_it_is_no_traceback() -> None:
    error = refused("ftp://host/runs")
    assert not isinstance(error, ConfigError)
    assert "Unrecognized filesystem type" in error.why[0]
