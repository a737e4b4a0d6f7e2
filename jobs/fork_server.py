"""A fork server for trainings: `python -m jobs.fork_server TRAINER SOCKET PATH LIFELINE`."""

import sys

from jobs.parts import LocalParts
from orchestrator.cluster.fork_server import become, serve
from orchestrator.cluster.leaving import leave

__all__ = ["main"]


def main(words: list[str]) -> None:
    """Import what the trainer's processes share, and fork into whatever is asked for."""
    trainer, listening, path, lifeline = words
    job = serve(
        int(listening), path, int(lifeline), lambda: LocalParts().get_ready_to_fork(trainer)
    )
    if job is None:
        leave(0)
    become(job)


if __name__ == "__main__":
    main(sys.argv[1:])
