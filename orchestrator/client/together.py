"""Whether all projects of a config fit on one card together, and which would wait for others."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.client.plans import CardPlan
from orchestrator.config.load import Config
from orchestrator.plan.budget import Target
from orchestrator.types import Bytes

__all__ = ["Together", "together"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """The projects of a file on one card at once, as `--json` prints it.

    `shares_bytes` adds up what each asks of the card, `room_bytes` is what the scheduler hands out
    of it. `starting` are those that start at once on the idle card, in the order of the queue;
    `waiting` start when one of them has ended; `impossible` never run on this card alone, since
    they do not fit on it or take several.
    """

    gpu: str
    gpu_memory_bytes: Bytes
    room_bytes: Bytes
    shares_bytes: Bytes
    fits: bool
    starting: tuple[str, ...]
    waiting: tuple[str, ...]
    impossible: tuple[str, ...]


def together(
    config: Config, plans: Sequence[CardPlan], targets: Sequence[Target]
) -> tuple[Together, ...]:
    """What each card can hold at once; nothing where there are not several runs to plan.

    Runs are looked at as the scheduler does: higher priority first, then in the order of the file,
    and who fits passes who does not. What could not be predicted takes a whole card.
    """
    rank = {
        project.name: (-project.template.priority, at) for at, project in enumerate(config.projects)
    }
    found = []
    for target in targets:
        own = _at_once([plan for plan in plans if _is_on(plan, target)], target)
        if len(own) > 1:
            found.append(_on_card(sorted(own, key=lambda plan: rank[plan.project]), target))
    return tuple(found)


def _at_once(plans: Sequence[CardPlan], target: Target) -> list[CardPlan]:
    """A plan for each run that there is at one time: all folds, and of stages the largest."""
    room = target.memory_bytes - target.foreign_bytes
    found: list[CardPlan] = []
    for project in dict.fromkeys(plan.project for plan in plans):
        stages = [plan for plan in plans if plan.project == project]
        largest = max(stages, key=lambda plan: (plan.fits is False, _share(plan, target, room)))
        found += [largest] * max(1, largest.num_folds)
    return found


def _is_on(plan: CardPlan, target: Target) -> bool:
    return (plan.gpu, plan.gpu_memory_bytes) == (target.name, target.memory_bytes)


def _on_card(plans: Sequence[CardPlan], target: Target) -> Together:
    room = target.memory_bytes - target.foreign_bytes
    used = total = 0
    names: dict[str, list[str]] = {"starting": [], "waiting": [], "impossible": []}
    for plan in plans:
        share = _share(plan, target, room)
        if plan.fits is False or plan.world_size > 1 or share > room:
            names["impossible"].append(plan.name)
            continue
        total += share
        is_first_fit = used + share <= room
        used += share if is_first_fit else 0
        names["starting" if is_first_fit else "waiting"].append(plan.name)
    return Together(
        gpu=target.name,
        gpu_memory_bytes=target.memory_bytes,
        room_bytes=room,
        shares_bytes=total,
        fits=not names["waiting"] and not names["impossible"],
        **{state: tuple(who) for state, who in names.items()},
    )


def _share(plan: CardPlan, target: Target, room: Bytes) -> Bytes:
    """What a project takes of the card; of a size alone, which is no card, what it needs."""
    share = plan.predicted_peak_bytes if target.is_size_alone else plan.share_bytes
    return room if share is None else share
