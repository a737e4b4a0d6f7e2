"""The policies that a what-if can compare, by name: every one a driver can choose, and rivals.

What drivers can choose is the table of `schedule.standard`; a policy that is added there can be
compared here at once.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from orchestrator.errors import ConfigError
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.standard import POLICIES as STANDARD
from orchestrator.schedule.standard import QUEUE, SUMMARIES, standard_scheduler
from orchestrator.types import RunSpec

__all__ = ["POLICIES", "NamedPolicy", "policies_of"]


def _unchanged(spec: RunSpec) -> RunSpec:
    return spec


def _without_rank(spec: RunSpec) -> RunSpec:
    """Everybody in one queue, at one priority."""
    return replace(spec, queue="default", priority=50)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPolicy:
    """A way to schedule.

    Args:
        name: What it is asked for by.
        summary: What it does, in a line.
        scheduler: Makes a fresh scheduler.
        spec: What it sees of a run.
    """

    name: str
    summary: str
    scheduler: Callable[[], Scheduler]
    spec: Callable[[RunSpec], RunSpec] = _unchanged


def _table() -> dict[str, NamedPolicy]:
    queue = NamedPolicy(
        name=QUEUE,
        summary="the product's own: priorities, fair shares, preemption, backfill",
        scheduler=standard_scheduler,
    )
    fifo = NamedPolicy(
        name="fifo",
        summary="strictly in the order of submission; nobody passes, nobody is asked to leave",
        scheduler=lambda: Scheduler(preempt=False, strict_order=True),
        spec=_without_rank,
    )
    chosen = [
        NamedPolicy(
            name=name,
            summary=SUMMARIES[name],
            scheduler=partial(Scheduler, places_by_speed=True, policy=policy),
        )
        for name, policy in STANDARD.items()
    ]
    return {policy.name: policy for policy in (queue, fifo, *chosen)}


POLICIES: Mapping[str, NamedPolicy] = _table()


def policies_of(names: Sequence[str]) -> tuple[NamedPolicy, ...]:
    """The policies of these names, each once; all of them where none is named.

    Raises:
        ConfigError: E1204, there is no such policy.
    """
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], POLICIES, n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no policy {unknown[0]!r}",
            code="E1204",
            why=tuple(f"{policy.name}: {policy.summary}" for policy in POLICIES.values()),
            fix=(f"--policy {near[0]}",),
        )
    return tuple(POLICIES[name] for name in dict.fromkeys(names or POLICIES))
