"""What came of a simulation, in numbers for people and for machines."""

from collections import Counter
from typing import Any

from orchestrator.cluster.script import Script
from orchestrator.cluster.sim import SimCluster
from orchestrator.messages import GangFailed
from orchestrator.ports import Store
from orchestrator.schedule.scheduler import Scheduler

__all__ = ["report"]


def report(
    script: Script, scheduler: Scheduler, cluster: SimCluster, store: Store
) -> dict[str, Any]:
    """Sum up a simulation that has come to its end.

    Utilisation is the part of all card-seconds during which a gang held the card (or a share of
    it); completion and waiting are counted from the submission of a run.
    """
    statuses = scheduler.statuses()
    num_gpus = sum(group.count * group.gpus for group in script.nodes)
    took = sorted((s.ended_at or 0.0) - s.submitted_at for s in statuses)
    waited = sorted((s.started_at or s.ended_at or 0.0) - s.submitted_at for s in statuses)
    failures = Counter(e.cause.value for e in store.replay() if isinstance(e, GangFailed))
    busy = cluster.busy_card_seconds / max(num_gpus * cluster.now(), 1.0)
    return {
        "nodes": sum(group.count for group in script.nodes),
        "gpus": num_gpus,
        "runs": len(statuses),
        "states": dict(sorted(Counter(s.state.value for s in statuses).items())),
        "attempts": sum(s.attempt for s in statuses),
        "virtual_hours": round(cluster.now() / 3600, 2),
        "utilisation": round(busy, 3),
        "completion_hours_mean": _mean_hours(took),
        "completion_hours_p99": _p99_hours(took),
        "waiting_hours_mean": _mean_hours(waited),
        "waiting_hours_p99": _p99_hours(waited),
        "failures": dict(sorted(failures.items())),
    }


def _mean_hours(seconds: list[float]) -> float:
    return round(sum(seconds) / max(len(seconds), 1) / 3600, 3)


def _p99_hours(ordered: list[float]) -> float:
    """The smallest value that 99 % of the values do not exceed."""
    if not ordered:
        return 0.0
    return round(ordered[-(-len(ordered) * 99 // 100) - 1] / 3600, 3)
