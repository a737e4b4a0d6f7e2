"""Widths in a round where some runs may be on some nodes only: no more than those nodes have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.schedule.policy import Candidate, Policy
from orchestrator.types import NodeId, RunId, Seconds

__all__ = ["Area", "confined_widths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Nodes to which some runs are confined, and the cards there that a round may give."""

    nodes: frozenset[NodeId]
    num_gpus: int


def confined_widths(
    policy: Policy,
    now: Seconds,
    candidates: Sequence[Candidate],
    num_gpus: int,
    areas: Mapping[RunId, Area],
) -> Mapping[RunId, int]:
    """What a policy gives, with no area asked for more than it has.

    Where it gives the runs of an area more than that, it is asked about these alone, with the
    cards of the area, and about all others with what is left. Areas that lie within one another
    or apart are filled exactly; of two that cross, the larger counts what the smaller one got as
    if all of it lay in both.

    Args:
        policy: Says how many cards each run shall have.
        now: The time.
        candidates: In the order of submission.
        num_gpus: Cards for all of them together.
        areas: Of the runs that are confined.
    """
    joint = policy.widths(now, candidates, num_gpus)
    for area in sorted({*areas.values()}, key=lambda each: (each.num_gpus, sorted(each.nodes))):
        inside = [c for c in candidates if c.run_id in areas and _is_in(areas[c.run_id], area)]
        if sum(joint.get(each.run_id, 0) for each in inside) <= area.num_gpus:
            continue
        room = min(area.num_gpus, num_gpus)
        smaller = {r: each for r, each in areas.items() if each.nodes < area.nodes}
        mine = confined_widths(policy, now, inside, room, smaller) if room > 0 else {}
        used, ids = sum(mine.values()), {each.run_id for each in inside}
        others = [each for each in candidates if each.run_id not in ids]
        left = {r: _less(each, area, used) for r, each in areas.items() if r not in ids}
        return {**mine, **confined_widths(policy, now, others, num_gpus - used, left)}
    return joint


def _is_in(inner: Area, outer: Area) -> bool:
    return inner.nodes <= outer.nodes


def _less(area: Area, other: Area, used: int) -> Area:
    """An area without the cards that another one that it shares nodes with has got."""
    if area.nodes.isdisjoint(other.nodes):
        return area
    return replace(area, num_gpus=max(area.num_gpus - used, 0))
