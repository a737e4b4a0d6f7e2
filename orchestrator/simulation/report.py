"""Figures of a simulated workload: completion times, makespan, finish-time fairness."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.simulation.remaining import seconds_left
from orchestrator.simulation.rounds import Job, Machine
from orchestrator.simulation.sized import Freedom, most_gpus
from orchestrator.types import Seconds

__all__ = ["Figures", "figures_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of all jobs of one workload under one policy.

    Completion times run from submission. `unfairness` is finish-time fairness (Themis, NSDI 2020):
    the completion time over the time alone on a 1/n share of the cluster, n being the mean number
    of jobs active during the job's life; below 1 a job gained by sharing.
    """

    average_s: Seconds
    p50_s: Seconds
    p99_s: Seconds
    makespan_s: Seconds
    mean_unfairness: float
    worst_unfairness: float
    mean_starts: float


def figures_of(jobs: Sequence[Job], freedom: Freedom, machine: Machine) -> Figures:
    """Percentiles are the smallest time that more than that share of the jobs stay within.

    Args:
        jobs: All ended.
        freedom: What the policy was free to choose, and so is the job alone.
        machine: The cluster.
    """
    times = sorted(job.completion_s for job in jobs)
    unfairness = [job.completion_s / _alone(job, freedom, machine) for job in jobs]
    return Figures(
        average_s=statistics.fmean(times),
        p50_s=times[len(times) // 2],
        p99_s=times[int(0.99 * len(times))],
        makespan_s=max(job.row.submit_s + job.completion_s for job in jobs),
        mean_unfairness=statistics.fmean(unfairness),
        worst_unfairness=max(unfairness),
        mean_starts=statistics.fmean(job.num_starts for job in jobs),
    )


def _alone(job: Job, freedom: Freedom, machine: Machine) -> Seconds:
    """Seconds on its share: at its best width within it, or at a wider one in turns."""
    share = machine.num_gpus / statistics.fmean(job.num_active)
    most = most_gpus(job, freedom, machine)
    fresh = Job(job.row, job.app, job.batch)
    left = seconds_left(fresh, most, machine.gpus_per_node)
    least = most if freedom is Freedom.RIGID else 1
    seconds = min(left[width - 1] * max(1.0, width / share) for width in range(least, most + 1))
    return seconds + machine.restart_s
