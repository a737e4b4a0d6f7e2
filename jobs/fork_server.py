"""A fork server for trainings: `python -m jobs.fork_server TRAINER SOCKET PATH LIFELINE`."""

import sys
from functools import partial

from jobs.parts import LocalParts
from orchestrator.cluster.fork_server import become, serve
from orchestrator.cluster.leaving import leave

__all__ = ["main"]

_TRACE = ("-m", "orchestrator.memory.process")  # no trial starts before its memory is known


def main(words: list[str]) -> None:
    """Import what the trainer's processes share, and fork into whatever is asked for."""
    trainer, listening, path, lifeline = words
    parts = LocalParts()
    job = serve(
        int(listening),
        path,
        int(lifeline),
        partial(parts.get_ready_to_fork, trainer),
        later=parts.get_more_to_fork(trainer),
        early=_TRACE,
    )
    if job is None:
        leave(0)
    become(job)


if __name__ == "__main__":
    main(sys.argv[1:])
