"""The address of a store in a config: a known kind, a place in it, and no secrets."""

from urllib.parse import parse_qsl, urlsplit

from orchestrator.errors import ConfigError

__all__ = ["checked_address"]

_KINDS = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
_SECRETS = ("key", "secret", "token", "password", "sas", "credential")
_ANONYMOUS = "anonymous"


def checked_address(text: str) -> str:
    """The address without a slash at its end.

    Raises:
        ConfigError: E1042, it is none that a run can be kept at; what is secret in it is not told.
    """
    try:
        parts = urlsplit(text)
        named = [name for name, _ in parse_qsl(parts.query, strict_parsing=bool(parts.query))]
    except ValueError as error:
        raise _wrong(str(error)) from error
    if parts.scheme not in _KINDS:
        raise _wrong(f"{parts.scheme}:// is not known; known are {', '.join(_KINDS)}")
    user, has_user, host = parts.netloc.rpartition("@")
    is_container = parts.scheme.startswith("abfs") and ":" not in user
    if has_user and not is_container and user != _ANONYMOUS:
        raise _wrong("it holds a name or a secret, and would stand in journals and logs")
    if secret := next((name for name in named if any(s in name.lower() for s in _SECRETS)), None):
        raise _wrong(f"its {secret} would stand in journals and logs")
    if parts.fragment or not (host or parts.scheme == "file"):
        raise _wrong("it names no bucket")
    if parts.scheme == "file" and (host or not parts.path.strip("/")):
        raise _wrong("a path has three slashes: file:///shared/runs")
    head, mark, query = text.partition("?")
    return head.rstrip("/") + mark + query


def _wrong(why: str) -> ConfigError:
    return ConfigError(
        "runs is no address that runs can be kept at",
        code="E1042",
        why=(why,),
        fix=(
            "runs: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///SHARED/FOLDER",
            "credentials belong into the environment or the client's own files on every node",
        ),
    )
