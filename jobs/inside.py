"""What differs in a job of a Ray: which Ray is meant, where its data and its runs lie."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.client.names import default_home
from orchestrator.cluster.running import TAG_NAME
from orchestrator.config.load import Config
from orchestrator.console.say import say

__all__ = ["is_complete", "is_in_job", "place_runs", "settled"]

_JOB_NAME = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the commands of jobs, and nothing else


def is_in_job() -> bool:
    """True in a process that a Ray cluster runs as a job."""
    return _JOB_NAME in os.environ


def is_complete() -> bool:
    """True in a Ray of `orc up`, to which no autoscaler brings nodes."""
    return TAG_NAME in os.environ


def settled(words: Sequence[str]) -> list[str]:
    """The words of a command; in a job those that say nothing of a cluster mean the job's own."""
    given = list(words)
    if not is_in_job() or os.environ.get("ORC_ADDRESS"):
        return given
    if any(word.startswith("cluster.emulate=") for word in given):
        return given  # a person wants to try it on the head itself
    if not any(word.startswith("cluster.address=") for word in given):
        given.append("cluster.address=auto")
    return given


def place_runs(config: Config) -> Config:
    """In a job a relative folder of runs lies beside the store: the job's own folder is removed.

    Ray unpacks what was uploaded into a folder of its session, and ends it with the job.
    """
    if not is_in_job() or not config.runs.is_relative_to(Path.cwd()):
        return config
    runs = default_home().resolve() / config.runs.relative_to(Path.cwd())
    kept = config.storage or f"{runs}, which every node has to see"
    say(f"runs are kept in {kept}")
    if config.emulate and config.address:
        say("cluster.emulate is not used: the job trains on the cards of its cluster")
    return replace(config, runs=runs)
