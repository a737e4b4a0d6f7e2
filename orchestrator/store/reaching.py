"""Whether a store can keep runs, asked before anything starts: it answers and takes a file."""

import http.client
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import ConfigError, OrchestratorError, StorageError
from orchestrator.store.remote import RemoteFolder, is_refused
from orchestrator.types import Seconds

__all__ = ["demand_usable"]

_ANSWER_SECONDS: Seconds = 20.0  # clients try for a while by themselves
_METADATA_SECONDS: Seconds = 1.0  # a machine of the cloud answers within milliseconds
# Where the clients look: variables, and files by the variable that names another one.
_VARIABLES: Mapping[str, Sequence[str]] = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": (),
}
_FILES: Mapping[str, Mapping[str, str]] = {
    "s3": {
        "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
        "AWS_CONFIG_FILE": ".aws/config",
    },
    "gs": {"GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json"},
}
_FIXES: Mapping[str, Sequence[str]] = {
    "s3": (
        "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY here and on every node",
        "or a profile in ~/.aws on every node, or a role of the machines",
    ),
    "gs": (
        "export GOOGLE_APPLICATION_CREDENTIALS=FILE here and on every node",
        "or gcloud auth application-default login, or a service account of the machines",
    ),
}
_GONE = ("no_such_bucket", "nosuchbucket", "bucket does not exist", "404", "not found")


def demand_usable(
    address: str,
    *,
    environment: Mapping[str, str] = os.environ,
    open_: Callable[..., RemoteFolder] = RemoteFolder,
    seconds: Seconds = _ANSWER_SECONDS,
) -> None:
    """Write a small file into a store, read it back and remove it.

    Args:
        address: Of the store.
        environment: Where credentials are looked for.
        open_: Opens a folder of a store.
        seconds: How long it may take.

    Raises:
        ConfigError: E1043, nothing here holds credentials for it; E1044, its bucket does not exist;
            E1045, it refuses to be written to, read, or to remove what was written.
        StorageError: E5051, it cannot be reached, or does not answer in time.
    """
    _demand_credentials(address, environment)
    failures: list[Exception] = []

    def look() -> None:
        try:
            _write_and_read(open_(address, pauses=()))
        except Exception as error:  # told by the thread that waits
            failures.append(error)

    # A client that hangs cannot be interrupted: it is left behind.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        why = f"no answer within {seconds:.0f} s"
        raise StorageError(f"{address} cannot be reached", code="E5051", why=(why,), fix=(_REACH,))
    for error in failures:
        raise _explained(address, error) from error


_REACH = "check the address, its region or endpoint_override, and the network"


def _write_and_read(folder: RemoteFolder) -> None:
    name, content = f".orc-{secrets.token_hex(8)}", b"orchestrator looks whether it can write here"
    folder.put(content, name)
    if folder.read(name) != content:
        raise OSError("what was written does not read back")
    folder.remove(name)


def _explained(address: str, error: Exception) -> OrchestratorError:
    told = error.why if isinstance(error, StorageError) else (" ".join(str(error).split())[:400],)
    text = " ".join(told).lower()
    if any(words in text for words in _GONE) and "metadata" not in text:
        return ConfigError(
            f"there is no such place: {address}",
            code="E1044",
            why=told,
            fix=("make the bucket first, in the region of the address; runs are kept below it",),
        )
    if address.startswith("file:") or is_refused(error) or getattr(error, "code", "") == "E5052":
        return ConfigError(
            f"{address} cannot be written to",
            code="E1045",
            why=told,
            fix=("let these credentials list, read, write and remove below the address",),
        )
    return StorageError(f"{address} cannot be reached", code="E5051", why=told, fix=(_REACH,))


def _demand_credentials(address: str, environment: Mapping[str, str]) -> None:
    """Refuse an address that nothing here has credentials for: its client would look for long.

    Raises:
        ConfigError: E1043.
    """
    parts = urlsplit(address)
    kind = {"gcs": "gs"}.get(parts.scheme, parts.scheme)
    if kind not in _FILES or parts.username == "anonymous":
        return
    if any(environment.get(name) for name in _VARIABLES[kind]):
        return
    home = Path(environment.get("HOME", "/"))
    files = [Path(environment.get(name) or home / own) for name, own in _FILES[kind].items()]
    if any(file.is_file() for file in files) or _METADATA[kind](environment):
        return
    names = ", ".join((*_VARIABLES[kind], *_FILES[kind]))
    raise ConfigError(
        f"there are no credentials for {address}",
        code="E1043",
        why=(
            f"none in the environment ({names})",
            f"none in {' or '.join(map(str, files))}, and this machine has no role",
        ),
        fix=_FIXES[kind],
    )


def _aws_answers(environment: Mapping[str, str]) -> bool:
    """True where the machine's provider has a service that knows of roles."""
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    endpoint = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
    seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    return _answers(urlsplit(endpoint).netloc, "PUT", "/latest/api/token", seconds)


def _google_answers(environment: Mapping[str, str]) -> bool:
    """As `_aws_answers`, on Google's machines."""
    host = environment.get("GCE_METADATA_HOST") or "metadata.google.internal"
    return _answers(host, "GET", "/", {"Metadata-Flavor": "Google"})


_METADATA = {"s3": _aws_answers, "gs": _google_answers}


def _answers(place: str, method: str, path: str, headers: Mapping[str, str]) -> bool:
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(place, timeout=_METADATA_SECONDS)
        with closing(connection):
            connection.request(method, path, headers=dict(headers))
            return connection.getresponse().status == http.client.OK
    return False
