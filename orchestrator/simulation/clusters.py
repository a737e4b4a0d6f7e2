"""The cluster of a what-if: node groups as a YAML file holds them, or made to fit the jobs."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from orchestrator.cluster.script import NodeGroup, Script
from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError, PlanError
from orchestrator.simulation.jobs import Job

__all__ = ["Site", "could_hold", "demand", "fitting", "leave_out", "site_of"]

PART = 0.9  # of the time in which jobs are submitted, a cluster made to fit has cards for all
GPUS_PER_NODE = 8
GPU = "NVIDIA A100-SXM4-80GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Node groups, and where they come from, in words."""

    groups: tuple[NodeGroup, ...]
    source: str

    @property
    def num_gpus(self) -> int:
        """Cards of all nodes."""
        return sum(group.count * group.gpus for group in self.groups)

    @property
    def mean_speed(self) -> float:
        """Of its cards; 1 is the card that the jobs' durations are for."""
        return sum(g.count * g.gpus * g.speed for g in self.groups) / max(self.num_gpus, 1)


def site_of(plain: Any, name: str) -> Site:
    """Node groups as in a simulation script; `memory_gib` may be left to the catalogue.

    Args:
        plain: What the YAML file holds.
        name: Of the file.

    Raises:
        ConfigError: it is no description of a cluster.
    """
    if not isinstance(plain, dict) or set(plain) != {"nodes"}:
        raise ConfigError(
            f"{name} is no cluster description",
            code="E1202",
            why=("it holds one key, nodes: a list of count, gpu, gpus, memory_gib, cpus, speed",),
            fix=("nodes: [{count: 4, gpu: A100 40GB, gpus: 8}]",),
        )
    groups = plain["nodes"]
    if isinstance(groups, list):
        groups = [_with_memory(group) for group in groups]
    made = Script.of({"nodes": groups, "runs": {"count": 0}})
    site = Site(groups=made.nodes, source=name)
    if not site.num_gpus or any(group.speed <= 0 for group in site.groups):
        raise ConfigError(f"{name}: a cluster has cards, and their speed is above 0", code="E1202")
    return site


def demand(jobs: Sequence[Job], part: float = PART) -> int:
    """Cards that would be enough for all jobs during this part of the time of submissions.

    Args:
        jobs: In the order of submission; each would start at once and take its duration.
        part: Of the time from the first to the last submission.
    """
    steps: Counter[float] = Counter()
    for job in jobs:
        steps[job.submit_s] += job.num_gpus
        steps[job.submit_s + job.duration_s] -= job.num_gpus
    times = sorted(steps)
    last = jobs[-1].submit_s
    seconds: defaultdict[int, float] = defaultdict(float)  # how long so many cards are wanted
    for at, until, num in zip(times, times[1:], accumulate(steps[t] for t in times), strict=False):
        seconds[num] += max(min(until, last) - at, 0.0)
    left = part * sum(seconds.values())
    for num in sorted(seconds):
        left -= seconds[num]
        if left <= 0 and seconds[num]:
            return num
    return max(job.num_gpus for job in jobs)


def fitting(jobs: Sequence[Job]) -> Site:
    """Equal nodes of eight cards: enough for `PART` of the time, and for the widest job."""
    needed = max(demand(jobs), *(job.num_gpus for job in jobs))
    count = math.ceil(needed / GPUS_PER_NODE)
    memory = find_card(GPU).memory_bytes / 2**30
    group = NodeGroup(count=count, gpu=GPU, memory_gib=memory, gpus=GPUS_PER_NODE)
    return Site(groups=(group,), source=f"made to fit: enough for {PART:.0%} of the time")


def leave_out(
    jobs: Sequence[Job], site: Site, *, skip: bool
) -> tuple[tuple[Job, ...], tuple[str, ...]]:
    """The jobs that the cluster could hold when it is empty, and what is told of the others.

    Raises:
        PlanError: E2105, some do not, and they may not be skipped.
    """
    able = tuple(job for job in jobs if _could_hold(site, job))
    num_out = len(jobs) - len(able)
    if not num_out:
        return able, ()
    first = next(job for job in jobs if not _could_hold(site, job))
    memory = "" if first.memory_gib is None else f" with {first.memory_gib:g} GiB each"
    told = f"{first.name} asks for {first.num_gpus} GPUs{memory}"
    if not skip or not able:
        raise PlanError(
            f"{num_out:,} of {len(jobs):,} jobs can never run on this cluster",
            code="E2105",
            why=(told, f"the cluster has {site.num_gpus:,} GPUs ({site.source})"),
            fix=("a larger --cluster, or leave them out with --skip-broken",),
        )
    return able, (f"{num_out:,} jobs were left out: the cluster cannot hold them; {told}",)


def _could_hold(site: Site, job: Job) -> bool:
    return could_hold(site, job.num_gpus, job.memory_gib or 0.0)


def could_hold(site: Site, num_gpus: int, memory_gib: float) -> bool:
    """True when so many cards have so much memory each; workers of a gang share no card."""
    fit = (group for group in site.groups if group.memory_gib >= memory_gib)
    return sum(group.count * group.gpus for group in fit) >= num_gpus


def _with_memory(group: object) -> object:
    if not isinstance(group, dict) or "memory_gib" in group:
        return group
    gpu = group.get("gpu")
    if not isinstance(gpu, str):
        return group
    return {**group, "memory_gib": find_card(gpu).memory_bytes / 2**30}
