"""Conducts a sweep of stub runs: `python -m jobs.stub_sweep HOME NAME [CONFIG key=value ...]`.

With a config it creates the sweep first; without one it goes on with it, as after a crash.
"""

import sys
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.errors import OrchestratorError
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct

__all__ = ["service_command"]


def service_command(home: Path) -> list[str]:
    """Starts a driver of stub runs."""
    return [sys.executable, "-m", "jobs.stub_service", str(home)]


def _main(words: list[str]) -> None:
    home, name, *rest = words
    client = Client(home)
    if rest:
        asking.create(client, rest[0], [*rest[1:], f"sweep.name={name}"])
    conduct(client, name, said=print, command=service_command(Path(home)))


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except OrchestratorError as error:
        print(error.what, *error.why, sep="\n  ", file=sys.stderr)
        sys.exit(error.exit_code)
