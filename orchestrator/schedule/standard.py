"""The scheduler as drivers use it; whoever replays their journal needs an equal one."""

from collections.abc import Mapping

from orchestrator.schedule.policy import Policy
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.widths import ShortestFlow

__all__ = ["POLICIES", "QUEUE", "SUMMARIES", "standard_scheduler"]

QUEUE = "queue"  # no policy: each run gets what it asks for, in the order of the queue

POLICIES: Mapping[str, Policy] = {
    "shortest": ShortestFlow(),
    # Ten runs more end with the last ones; a change has five minutes to pay for itself.
    "balanced": ShortestFlow(tail_weight=10.0, horizon_seconds=300.0),
}

SUMMARIES: Mapping[str, str] = {
    "shortest": "in rounds: a short mean completion time, widths chosen for it",
    "balanced": "in rounds: that, with more weight on those that end last",
}


def standard_scheduler(*, forgets: bool = True) -> Scheduler:
    """A fresh scheduler with every policy that can be chosen, and the queue to begin with.

    Args:
        forgets: As `Scheduler`.
    """
    return Scheduler(places_by_speed=True, policies=POLICIES, forgets=forgets)
