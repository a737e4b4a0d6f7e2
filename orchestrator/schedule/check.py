"""The laws that hold between events: records, ledger and dependencies agree."""

from orchestrator.schedule import runs
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.types import RunId, Share

__all__ = ["check"]


def check(life: Lifecycle) -> None:
    """Check every law; for tests and simulations.

    Raises:
        AssertionError: a law is broken.
    """
    runs.check(life.runs.values())
    life.dependencies.check()
    life.ledger.check()
    given: dict[RunId, list[Share]] = {}
    for room in life.ledger.nodes.values():
        for run_id, shares in room.runs.items():
            given.setdefault(run_id, []).extend(shares)
    held = {run_id: record.held for run_id, record in life.runs.items() if record.held}
    assert held.keys() == given.keys(), "the ledger and the records differ"
    for run_id, mine in held.items():
        assert sorted(map(repr, mine)) == sorted(map(repr, given[run_id])), run_id
    claimed = life.dispatch.claims.by_node.keys()
    assert claimed <= life.ledger.nodes.keys(), "a node that is gone is claimed"
    num_unfinished = sum(not record.state.is_terminal for record in life.runs.values())
    assert num_unfinished == life.num_unfinished
