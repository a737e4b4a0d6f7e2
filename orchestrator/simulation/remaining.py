"""What is left of a job on so many GPUs, from the tables: what an oracle would tell."""

import math
from functools import cache
from typing import Any

import numpy as np

from orchestrator.simulation.pollux import Application, Shape, packed_shape
from orchestrator.simulation.rounds import Job
from orchestrator.types import Seconds

__all__ = ["seconds_after", "seconds_left", "seconds_of_next", "speeds_now"]

_ROUNDS_TO_SETTLE = 2  # of choosing the best batch by the statistics at the batch chosen before


def seconds_left(job: Job, most: int, gpus_per_node: int) -> list[Seconds]:
    """Seconds to the end on 1 to `most` GPUs, each packed on the fewest nodes, without restarts.

    With a batch of its own choice a job is taken to have the best one in every epoch to come.
    A width that was not measured takes `math.inf`.
    """
    told = _left(job, most, gpus_per_node)
    return [float(each) for each in told]


@cache
def seconds_after(
    app: Application, batch: int | None, epoch: int, most: int, gpus_per_node: int
) -> tuple[Seconds, ...]:
    """As `seconds_left`, of a job that has just completed so many epochs."""
    return tuple(float(each) for each in _table(app, batch, most, gpus_per_node)[epoch])


def seconds_of_next(
    job: Job, most: int, gpus_per_node: int, *, seconds: Seconds, least: int = 1
) -> list[Seconds]:
    """As `seconds_left`, of the work alone that comes next, up to the end of an epoch.

    Args:
        job: With how far it is.
        most: GPUs.
        gpus_per_node: Of the cluster.
        seconds: How much work at least, on `least` GPUs; all of it where less is left.
        least: GPUs.
    """
    table = _table(job.app, job.batch, most, gpus_per_node)
    left = _left(job, most, gpus_per_node)
    epochs = range(job.epoch + 1, job.app.num_epochs)
    at = least - 1
    until = next((e for e in epochs if left[at] - table[e][at] >= seconds), job.app.num_epochs)
    known = np.isfinite(left)
    left[known] -= table[until][known]
    return [float(each) for each in left]


def _left(job: Job, most: int, gpus_per_node: int) -> Any:
    """Seconds to the end by widths."""
    table = _table(job.app, job.batch, most, gpus_per_node)
    begin = job.app.epoch_ends[job.epoch - 1] if job.epoch else 0.0
    done = (job.progress - begin) / (job.app.epoch_ends[job.epoch] - begin)
    now, after = table[job.epoch], table[job.epoch + 1]
    told = np.full(most, math.inf)
    known = np.isfinite(now)
    told[known] = now[known] - done * (now[known] - after[known])
    return told


def speeds_now(job: Job, most: int, gpus_per_node: int) -> list[float]:
    """Progress a second on 1 to `most` GPUs by what the job has seen so far; 0.0 if unmeasured."""
    shapes = [packed_shape(width, gpus_per_node) for width in range(1, most + 1)]
    if job.batch is not None:
        return [job.app.rate(shape, job.batch, job.epoch) for shape in shapes]
    if job.moments is None:
        return [float(width) for width in range(1, most + 1)]
    return [job.app.best_batch(shape, job.moments)[1] for shape in shapes]


@cache
def _table(app: Application, batch: int | None, most: int, gpus_per_node: int) -> Any:
    """Seconds from the start of each epoch (and of the end) to the end: epochs + 1 by widths."""
    shapes = [packed_shape(width, gpus_per_node) for width in range(1, most + 1)]
    return np.asarray([_to_the_end(app, shape, batch) for shape in shapes]).T


@cache
def _to_the_end(app: Application, shape: Shape, batch: int | None) -> tuple[Seconds, ...]:
    left = [0.0]
    begins = (0.0, *app.epoch_ends)
    for epoch in reversed(range(app.num_epochs)):
        chosen = _best_batch(app, shape, epoch) if batch is None else batch
        rate = app.rate(shape, chosen, epoch) if chosen else 0.0
        took = (begins[epoch + 1] - begins[epoch]) / rate if rate else math.inf
        left.append(left[-1] + took)
    return tuple(reversed(left))


def _best_batch(app: Application, shape: Shape, epoch: int) -> int:
    """The batch of most progress in an epoch; 0 where none was measured."""
    batch, trained = 0, app.least_batch
    for _ in range(_ROUNDS_TO_SETTLE):
        batch, rate = app.best_batch(shape, app.moments(trained, epoch))
        if not rate:
            return 0
        local, extra = app.split(batch, sum(shape))
        trained = local * (extra + 1) * sum(shape)
    return batch
