"""Tokens of Rays: made once for those that we start, kept for those that we join; files of 0600."""

import os
import secrets
from pathlib import Path

from orchestrator.errors import ClusterError

__all__ = ["ADMISSION_FIX", "joined_token", "token_file"]

ADMISSION_FIX = (
    "set RAY_AUTH_TOKEN to the cluster's token (on its head node: ray get-auth-token),"
    " or RAY_AUTH_TOKEN_PATH to a file that holds it"
)


def token_file(home: Path) -> Path:
    """The file with the token of the clusters that we start: made once, for its owner alone."""
    path = home / "ray-token"
    if not path.exists():
        _write(path, secrets.token_hex(32))
    path.chmod(0o600)
    return path


def joined_token(home: Path) -> Path:
    """The file with the token of a head elsewhere: named, or written from RAY_AUTH_TOKEN, or kept.

    Raises:
        ClusterError: E4003, nobody said which.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = home / "ray-token-joined"
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        _write(path, text)
    elif named:
        path = Path(named).resolve()
    if not path.is_file():
        raise ClusterError(
            "the token of the head is needed to join it",
            code="E4003",
            why=(
                f"RAY_AUTH_TOKEN_PATH names {named}, which is not there"
                if named
                else "neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH is set",
            ),
            fix=(
                "on the head, `orc up` says which file holds it; copy that file here (mode 0600)"
                " and set RAY_AUTH_TOKEN_PATH to the copy",
            ),
        )
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
