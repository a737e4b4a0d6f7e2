"""From widths to GPUs: who keeps its width stays where it is, the others go to the fewest nodes."""

from collections.abc import Mapping, Sequence

from orchestrator.simulation.rounds import Gpus, Job, Machine

__all__ = ["pack"]


def pack(widths: Mapping[str, int], jobs: Sequence[Job], machine: Machine) -> dict[str, Gpus]:
    """GPUs for every job that shall have some.

    The widest go first: onto empty nodes, and with what remains into the tightest gap.

    Args:
        widths: GPUs by name; a job that is missing gets none.
        jobs: With what they hold now.
        machine: The cluster; it has room for all widths together.
    """
    free = dict.fromkeys(range(machine.num_nodes), machine.gpus_per_node)
    placed: dict[str, Gpus] = {}
    moving: list[Job] = []
    for job in jobs:
        width = widths.get(job.row.name, 0)
        if width and len(job.gpus) == width:
            placed[job.row.name] = job.gpus
            for node in job.gpus:
                free[node] -= 1
        elif width:
            moving.append(job)
    for job in sorted(moving, key=lambda each: -widths[each.row.name]):
        placed[job.row.name] = _take(widths[job.row.name], free, machine.gpus_per_node)
    return placed


def _take(width: int, free: dict[int, int], gpus_per_node: int) -> Gpus:
    taken: list[int] = []
    while len(taken) < width:
        wanted = width - len(taken)
        gaps = [node for node in free if free[node] >= wanted] if wanted < gpus_per_node else []
        node = min(gaps, key=free.__getitem__) if gaps else max(free, key=free.__getitem__)
        count = min(wanted, free[node])
        assert count, "the widths are more than the GPUs"
        taken += [node] * count
        free[node] -= count
    return tuple(taken)
