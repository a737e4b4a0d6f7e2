"""From widths to GPUs: on the fewest nodes; who keeps its width stays, unless moving together pays.

A job that keeps its width but lies on more nodes than it needs is moved when all of it then fits on
the fewest, and that is worth the restart.
"""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.simulation.pollux import packed_shape
from orchestrator.simulation.rounds import Gpus, Job, Machine, shape_of

__all__ = ["pack"]


def pack(
    widths: Mapping[str, int],
    jobs: Sequence[Job],
    machine: Machine,
    is_worth_moving: Callable[[Job], bool],
) -> dict[str, Gpus]:
    """GPUs for every job that shall have some.

    The widest go first: onto empty nodes, and with what remains into the tightest gap.

    Args:
        widths: GPUs by name; a job that is missing gets none.
        jobs: With what they hold now.
        machine: The cluster; it has room for all widths together.
        is_worth_moving: Asked of jobs that keep their width but lie on more nodes than they need.
    """
    running = [job for job in jobs if widths.get(job.row.name)]
    keeping = [job for job in running if len(job.gpus) == widths[job.row.name]]
    loose = [job for job in keeping if _is_spread(job.gpus, machine) and is_worth_moving(job)]
    while True:
        names = {job.row.name for job in loose}
        kept = {job.row.name: job.gpus for job in keeping if job.row.name not in names}
        placed = _place(widths, running, kept, machine)
        stuck = [job for job in loose if _is_spread(placed[job.row.name], machine)]
        if not stuck:
            return placed
        loose = [job for job in loose if job not in stuck]


def _is_spread(gpus: Gpus, machine: Machine) -> bool:
    return len(shape_of(gpus)) > len(packed_shape(len(gpus), machine.gpus_per_node))


def _place(
    widths: Mapping[str, int], jobs: Sequence[Job], kept: Mapping[str, Gpus], machine: Machine
) -> dict[str, Gpus]:
    free = dict.fromkeys(range(machine.num_nodes), machine.gpus_per_node)
    placed = dict(kept)
    for gpus in placed.values():
        for node in gpus:
            free[node] -= 1
    moving = [job.row.name for job in jobs if job.row.name not in placed]
    for name in sorted(moving, key=lambda each: -widths[each]):
        placed[name] = _take(widths[name], free, machine.gpus_per_node)
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
