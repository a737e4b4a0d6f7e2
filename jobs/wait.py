"""Follows runs that a driver elsewhere trains to their end: `orc wait`."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.console.follow import wait_for
from orchestrator.console.say import emit_json, say
from orchestrator.types import Seconds

__all__ = ["wait"]

_PATIENCE: Seconds = 5.0  # for a driver that a service manager starts again


def wait(names: Sequence[str], *, home: Path | None, timeout: Seconds | None, as_json: bool) -> int:
    """Wait for the named runs, or for all that are unfinished; returns the exit code.

    Raises:
        NotFoundError: E5020, no such run.
    """
    client = Client(home)
    ids = [client.find(name) for name in names] or client.resume()
    if not ids:
        say("nothing is unfinished")
        if as_json:
            emit_json(runs=[])
        return 0
    return wait_for(
        client,
        ids,
        as_json=as_json,
        driver=client.driver(),
        timeout=timeout,
        patience=_PATIENCE,
    )
