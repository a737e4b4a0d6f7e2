"""Measured applications through the scheduler and the driver of the product, simulated.

What differs from the rounds of `simulation.rounds`: jobs are runs with attempts, decisions follow
events, a card that becomes free within a round is given away at once to whoever waits in the queue,
and gangs are placed by the product's own rules.

A run's batch has to divide among its cards, exactly. The published job lists do not care, so the
runs here carry a batch that many widths divide, and the tables are asked with the job's own.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_pace import MEASURED_AFTER, Physics
from orchestrator.driver import drive
from orchestrator.messages import Event, NodeJoined, RunSubmitted
from orchestrator.schedule.policy import Policy
from orchestrator.schedule.rearrange import Knowledge
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.speedup import Speedups
from orchestrator.simulation.job_speeds import JobSpeeds, LearnedSpeeds
from orchestrator.simulation.pollux import Application
from orchestrator.simulation.pollux_files import Submission
from orchestrator.simulation.remaining import seconds_after
from orchestrator.simulation.rounds import Job, Machine
from orchestrator.simulation.sized import Freedom, most_gpus
from orchestrator.store.memory import MemoryStore
from orchestrator.types import (
    Card,
    Node,
    NodeId,
    RunId,
    RunSpec,
    Seconds,
    TrainSettings,
)

__all__ = ["Driven", "Terms", "drive_jobs"]

Applications: TypeAlias = Mapping[str, Application]

DIVISIBLE = math.lcm(*range(1, 17), 32, 48, 64)  # samples; so that many widths are legal
CARD_BYTES = 16 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """How one job went: seconds from submission to the end, and how often it was started."""

    name: str
    completion_s: Seconds
    ended_at: Seconds
    num_starts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a policy may choose and what it is told.

    Args:
        freedom: What is free: who runs, on how many cards, with which batch.
        is_speed_known: Whether the speed at every width is known beforehand, or learned.
        forecast_error: The remaining work is known up to a factor of this scatter (standard
            deviation of its logarithm), drawn once a job; None leaves it to be learned.
        keeps_unfinished_epochs: As the published simulator, where a restart loses no work; the
            product repeats the unfinished epoch.
        measured_after: Seconds of steps after which a gang tells its pace, as the product's do;
            None leaves speeds to be learned from whole epochs.
    """

    freedom: Freedom
    is_speed_known: bool = True
    forecast_error: float | None = 0.0
    keeps_unfinished_epochs: bool = True
    measured_after: Seconds | None = MEASURED_AFTER


def drive_jobs(
    rows: Sequence[Submission], apps: Applications, policy: Policy, machine: Machine, terms: Terms
) -> tuple[tuple[Driven, ...], Scheduler]:
    """Run every job to its end.

    Args:
        rows: The job list.
        apps: What the jobs run.
        policy: Says who has how many cards.
        machine: The cluster; its rounds are the policy's.
        terms: What the policy may choose and what it is told.

    Returns:
        The jobs in the order of the list, and the scheduler as it was at the end.
    """
    speeds = JobSpeeds(apps, {row.name: row for row in rows}, terms.freedom, machine.gpus_per_node)
    happenings: list[Event] = [
        NodeJoined(at=0.0, node=_node(number, machine.gpus_per_node))
        for number in range(machine.num_nodes)
    ]
    happenings += [
        RunSubmitted(at=row.submit_s, spec=_spec(row, apps[row.app], terms.freedom, machine))
        for row in rows
    ]
    cluster = SimCluster(
        sorted(happenings, key=lambda event: event.at),
        physics=Physics(
            epoch_seconds=speeds.epoch_seconds,
            epoch_images=speeds.epoch_images,
            start_seconds=(machine.restart_s, machine.restart_s),
            yield_seconds=(0.0, 0.0),
            keeps_unfinished_epochs=terms.keeps_unfinished_epochs,
            measured_after=terms.measured_after,
        ),
    )
    known = Speedups(known=speeds.speedup if terms.is_speed_known else None)
    if not terms.is_speed_known and terms.freedom is Freedom.ADAPTIVE:
        known = LearnedSpeeds(speeds=speeds)
    foresight = None
    if terms.forecast_error is not None:
        foresight = _Foresight(speeds, terms.forecast_error).left
    scheduler = Scheduler(policy=policy, knowledge=Knowledge(known, foresight))
    drive(scheduler, cluster, MemoryStore(), cluster, keep_alive=lambda: cluster.num_arrivals > 0)
    return tuple(_outcome(scheduler, row) for row in rows), scheduler


def _outcome(scheduler: Scheduler, row: Submission) -> Driven:
    status = scheduler.status(RunId(row.name))
    assert status.ended_at is not None, f"{row.name} has not ended"
    return Driven(
        name=row.name,
        completion_s=status.ended_at - status.submitted_at,
        ended_at=status.ended_at,
        num_starts=status.attempt,
    )


@dataclass(frozen=True, slots=True)
class _Foresight:
    """What jobs still need, with an error that is drawn once for each."""

    speeds: JobSpeeds
    error: float

    def left(self, spec: RunSpec, epoch: int, widths: Sequence[int]) -> list[Seconds]:
        """Seconds to the end after so many epochs, with each of the widths."""
        row = self.speeds.rows[spec.run_id]
        app = self.speeds.apps[row.app]
        told = seconds_after(
            app, self.speeds.fixed_batch(row), epoch, spec.num_gpus, self.speeds.gpus_per_node
        )
        wrong = _wrong(row.name, self.error)
        return [told[width - 1] * wrong for width in widths]


@cache
def _wrong(name: str, error: float) -> float:
    return math.exp(random.Random(f"forecast/{name}").gauss(0.0, error))


def _spec(row: Submission, app: Application, freedom: Freedom, machine: Machine) -> RunSpec:
    """The run of a job, as wide as it may ever be."""
    job = Job(row, app, None if freedom is Freedom.ADAPTIVE else row.batch)
    most = most_gpus(job, freedom, machine)
    settings = TrainSettings(
        model=row.app, data="none", imgsz=row.batch, epochs=app.num_epochs, patience=0
    )
    return RunSpec(
        run_id=RunId(row.name),
        project=row.app,
        trainer="fake",
        settings=settings,
        effective_batch=DIVISIBLE,
        folder=f"/simulated/{row.name}",
        num_gpus=most if freedom is Freedom.RIGID else _nearest(most),
        min_gpus=None if freedom is Freedom.RIGID else 1,
    )


def _nearest(width: int) -> int:
    """The widest number of cards, at most `width`, among which the batch divides."""
    return next(w for w in range(width, 0, -1) if DIVISIBLE % w == 0)


def _node(number: int, num_gpus: int) -> Node:
    cards = tuple(Card(index=i, name="T4", memory_bytes=CARD_BYTES) for i in range(num_gpus))
    return Node(node_id=NodeId(f"n{number:02}"), cards=cards, num_cpus=64.0)
