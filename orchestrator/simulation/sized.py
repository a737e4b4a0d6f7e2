"""The product's own policy in rounds: its widths for the jobs of a list, with what it is told.

Assumptions that favour it, each of which can be switched off:

- It knows what is left of a job (`forecast` of 1.0). Optimus was told this too; Tiresias and Pollux
  were not. `forecast` may be off by a factor of each job's own, or None: then it goes by the
  GPU-seconds that a job has had.
- It knows the true step time of every width, as Optimus did; Pollux fits it from what it has tried,
  and may try at most twice what it has. With `is_exploring` that bound holds here too.
- With a batch of its own it knows how the statistics of the gradient will develop, as part of what
  is left and of how the next epochs scale; the batch itself is chosen, as in Pollux, by those last
  seen.

ncf is held at one GPU wherever widths are free, as published.
"""

import math
from collections.abc import Mapping, Sequence
from enum import Enum

from orchestrator.schedule.policy import Candidate, Policy
from orchestrator.simulation.packing import pack
from orchestrator.simulation.pollux import packed_shape
from orchestrator.simulation.remaining import seconds_left, seconds_of_next, speeds_now
from orchestrator.simulation.rounds import Gpus, Job, Machine, shape_of
from orchestrator.types import RunId, Seconds

__all__ = ["NCF_BATCH", "Freedom", "Sized", "most_gpus"]

NCF_BATCH = 32768  # at which Pollux holds it
_NEXT: Seconds = 1200.0  # of work on one GPU: what a job trains between two changes, and some more
_WORTH_A_RESTART = 1.1  # times as fast; a restart of 30 s is then paid back in 5 minutes


class Freedom(Enum):
    """What a policy may choose."""

    RIGID = "rigid"  # who runs
    ELASTIC = "elastic"  # and on how many GPUs
    ADAPTIVE = "adaptive"  # and with which batch


def most_gpus(job: Job, freedom: Freedom, machine: Machine) -> int:
    """The widest that a job may ever be."""
    if freedom is Freedom.RIGID:
        return job.row.num_gpus
    if job.app.name == "ncf":
        return 1
    batch = job.app.most_batch if job.batch is None else job.batch
    return max(1, min(machine.num_gpus, job.app.most_gpus(batch)))


def _is_faster_together(job: Job, machine: Machine) -> bool:
    shape, packed = shape_of(job.gpus), packed_shape(len(job.gpus), machine.gpus_per_node)
    now, then = (job.app.rate(each, job.asked_batch(each), job.epoch) for each in (shape, packed))
    return then > now * _WORTH_A_RESTART


class Sized:
    """Lets a policy of widths place jobs.

    Args:
        policy: Of the scheduler.
        freedom: What it may choose.
        forecast: By name, the factor by which what is left is told; None tells nothing.
        is_exploring: No more than twice the GPUs that a job has tried.
    """

    def __init__(
        self,
        policy: Policy,
        freedom: Freedom,
        forecast: Mapping[str, float] | None,
        *,
        is_exploring: bool = False,
    ) -> None:
        self._policy = policy
        self._freedom = freedom
        self._forecast = forecast
        self._is_exploring = is_exploring

    def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
        """As `orchestrator.simulation.rounds.Policy`."""
        candidates = [self._candidate(job, number, machine) for number, job in enumerate(jobs)]
        widths = self._policy.widths(now, candidates, machine.num_gpus)
        named = {str(name): width for name, width in widths.items()}
        return pack(named, jobs, machine, lambda job: _is_faster_together(job, machine))

    def _candidate(self, job: Job, number: int, machine: Machine) -> Candidate:
        most = most_gpus(job, self._freedom, machine)
        if self._is_exploring:
            most = min(most, max(1, 2 * job.widest))
        left = self._seconds(job, most, machine)
        least = most if self._freedom is Freedom.RIGID else 1
        widths = [width for width in range(least, most + 1) if left[width - 1] < math.inf]
        first = left[widths[0] - 1]
        factor = None if self._forecast is None else self._forecast[job.row.name]
        return Candidate(
            run_id=RunId(job.row.name),
            widths=tuple(widths),
            speedups=tuple(first / left[width - 1] for width in widths),
            width=len(job.gpus),
            left_seconds=None if factor is None else first * factor,
            attained_seconds=job.attained_gpu_s,
            submitted_at=job.row.submit_s,
            priority=0,
            order=number,
            speedups_now=self._speedups_now(job, widths, machine),
            is_foreseen=factor is not None,
        )

    def _speedups_now(
        self, job: Job, widths: Sequence[int], machine: Machine
    ) -> tuple[float, ...] | None:
        """Of the next epochs, where the batch is free; with a fixed one all epochs are alike."""
        if job.batch is not None or self._forecast is None:
            return None
        told = seconds_of_next(
            job, widths[-1], machine.gpus_per_node, seconds=_NEXT, least=widths[0]
        )
        return tuple(told[widths[0] - 1] / told[width - 1] for width in widths)

    def _seconds(self, job: Job, most: int, machine: Machine) -> list[Seconds]:
        if self._forecast is not None:
            return seconds_left(job, most, machine.gpus_per_node)
        speeds = speeds_now(job, most, machine.gpus_per_node)
        return [1.0 / speed if speed else math.inf for speed in speeds]
