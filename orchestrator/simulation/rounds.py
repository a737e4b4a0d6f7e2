"""A cluster in rounds: every 60 s a policy places the active jobs, which then train by the tables.

What is fixed here is fixed for every policy: equal nodes, rounds, 30 s of standstill after every
change of a job's GPUs, no interference between jobs, seconds of an epoch's end rounded to whole
ones (as the published simulator does). A job that ends within a round leaves its GPUs idle until
the next one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol, TypeAlias

from orchestrator.simulation.pollux import Application, Moments, Shape
from orchestrator.simulation.pollux_files import Submission
from orchestrator.types import Seconds

__all__ = ["Gpus", "Job", "Machine", "Policy", "shape_of", "simulate"]

Gpus: TypeAlias = tuple[int, ...]  # the node of each GPU, equal ones side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The cluster and the rules of its rounds."""

    num_nodes: int = 16
    gpus_per_node: int = 4
    round_s: Seconds = 60.0
    restart_s: Seconds = 30.0

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return self.num_nodes * self.gpus_per_node


def shape_of(gpus: Gpus) -> Shape:
    """GPUs per node, in the order of the nodes."""
    return tuple(len(list(same)) for _, same in groupby(gpus))


@dataclass(slots=True, eq=False)
class Job:
    """A submitted job and how far it is.

    `batch` is held for life; None leaves the job to take, at each epoch and placement, the batch
    of most progress by the statistics of the gradient that it saw last.
    """

    row: Submission
    app: Application
    batch: int | None
    gpus: Gpus = ()
    progress: float = 0.0
    epoch: int = 0
    restart_left_s: Seconds = 0.0
    attained_gpu_s: Seconds = 0.0
    num_starts: int = 0
    widest: int = 0  # GPUs of the widest placement that it has trained on
    moments: Moments | None = None
    ended_at: Seconds | None = None
    num_active: list[int] = field(default_factory=list)  # active jobs in each round of its life

    @property
    def completion_s(self) -> Seconds:
        """Seconds from submission to the end."""
        assert self.ended_at is not None, f"{self.row.name} has not ended"
        return self.ended_at - self.row.submit_s

    def asked_batch(self, shape: Shape) -> int:
        """The batch that it would train with on these GPUs now."""
        if self.batch is not None:
            return self.batch
        if self.moments is None:
            return max(self.app.least_batch, self.app.least_local * sum(shape))
        return self.app.best_batch(shape, self.moments)[0]

    def move(self, gpus: Gpus, restart_s: Seconds) -> None:
        """Give it other GPUs, or none."""
        self.gpus = gpus
        if gpus:
            self.restart_left_s = restart_s
            self.num_starts += 1

    def train(self, now: Seconds, seconds: Seconds) -> None:
        """Let it use its GPUs for some seconds."""
        if not self.gpus:
            return
        shape = shape_of(self.gpus)
        standstill = min(self.restart_left_s, seconds)
        self.restart_left_s -= standstill
        left = seconds - standstill
        while left > 0 and self.ended_at is None:
            batch = self.asked_batch(shape)
            rate = self.app.rate(shape, batch, self.epoch)
            assert rate > 0, f"{self.row.name} cannot train batch {batch} on {shape}"
            self._observe(shape, batch)
            end = self.app.epoch_ends[self.epoch]
            if self.progress + rate * left < end:
                self.progress += rate * left
                left = 0.0
                continue
            took = float(round((end - self.progress) / rate))
            left -= took
            self.progress = end
            self.epoch += 1
            if self.epoch == self.app.num_epochs:
                self.ended_at = now + seconds - left
        self.attained_gpu_s += (seconds - left) * len(self.gpus)

    def _observe(self, shape: Shape, batch: int) -> None:
        """What training shows: it has run this wide, and the statistics at its own batch."""
        self.widest = max(self.widest, sum(shape))
        if self.batch is None:
            local, extra = self.app.split(batch, sum(shape))
            trained = local * (extra + 1) * sum(shape)
            self.moments = self.app.moments(trained, self.epoch)


class Policy(Protocol):
    """Decides who runs where."""

    def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
        """GPUs of every job that shall run in the next round, by name.

        Args:
            now: Seconds since the start.
            jobs: Active jobs in the order of the list, with what they hold now; only to be read.
            machine: The cluster.

        Returns:
            The same GPUs as held mean that the job goes on; others, that it restarts.
        """
        ...


def simulate(jobs: Iterable[Job], policy: Policy, machine: Machine) -> tuple[Job, ...]:
    """Run every job to its end.

    Args:
        jobs: Fresh ones.
        policy: Asked at the end of every round.
        machine: The cluster.

    Returns:
        The jobs, all ended.
    """
    everyone = tuple(jobs)
    waiting = list(everyone)
    now = 0.0
    active: list[Job] = []
    while waiting or active:
        for job in active:
            job.train(now, machine.round_s)
        now += machine.round_s
        arrived = {id(job) for job in waiting if job.row.submit_s <= now}
        running = {id(job) for job in active if job.ended_at is None}
        waiting = [job for job in waiting if id(job) not in arrived]
        active = [job for job in everyone if id(job) in arrived or id(job) in running]
        if active:
            _reallocate(active, policy.place(now, active, machine), machine)
    return everyone


def _reallocate(active: Sequence[Job], placed: Mapping[str, Gpus], machine: Machine) -> None:
    used = Counter(node for gpus in placed.values() for node in gpus)
    assert all(count <= machine.gpus_per_node for count in used.values()), "a node is overbooked"
    for job in active:
        job.num_active.append(len(active))
        gpus = placed.get(job.row.name, ())
        if gpus != job.gpus:
            job.move(gpus, machine.restart_s)
