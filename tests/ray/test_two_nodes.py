"""On two nodes: drivers die in commits, workers and nodes are killed, stopped, and let go on."""

from pathlib import Path

import pytest

from jobs.chaos_two import play
from jobs.chaos_verdict import verdict

pytestmark = pytest.mark.ray

ACTS = ("GangStarted:in", "ProgressReported:after", "GangFinished:before", "worker", "raylet")


def test_whatever_is_killed_on_two_nodes_every_run_ends_and_is_counted_once(tmp_path: Path) -> None:
    drill = play(ACTS, tmp_path)
    assert verdict(drill) == []
    assert drill.kills.total() >= len(ACTS)


def test_a_node_that_goes_on_after_it_was_given_up_writes_what_nobody_counts(
    tmp_path: Path,
) -> None:
    drill = play(["stop-node", "head"], tmp_path, seed=1)
    assert verdict(drill) == []
    assert drill.frozen
    assert set(drill.zombie_checkpoints) == set(drill.frozen)
    assert max(drill.zombie_checkpoints.values()) <= 1, "that of the epoch in which it was stopped"
