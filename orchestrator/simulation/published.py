"""The two policies whose published results prove the ground equal: Tiresias and Optimus.

Both are written from what their papers and the published simulator of Pollux say they do there:
Tiresias (Gu et al., NSDI 2019) as two queues of attained service with the GPUs that the user asked
for, preemptive, without promotion; Optimus (Peng et al., EuroSys 2018) with an oracle of the
remaining steps in place of its fitted curve, and the true step times.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.simulation.pollux import packed_shape
from orchestrator.simulation.rounds import Gpus, Job, Machine
from orchestrator.types import Seconds

__all__ = ["Optimus", "Tiresias"]

_QUEUE_GPU_SECONDS = 16 * 3600.0  # the published simulator's border between the two queues


def _spread(num_gpus: int, free: Counter[int]) -> Gpus:
    """GPUs of the emptiest nodes first; `free` loses them."""
    taken: list[int] = []
    while len(taken) < num_gpus:
        node = max(free, key=lambda each: free[each])
        count = min(free[node], num_gpus - len(taken))
        taken += [node] * count
        free[node] -= count
    return tuple(taken)


def _place(order: Sequence[tuple[str, int]], kept: Mapping[str, Gpus], machine: Machine,
           ) -> dict[str, Gpus]:  # fmt: skip
    """Keep what is kept, and place the others in the order given."""
    placed = dict(kept)
    free = Counter(dict.fromkeys(range(machine.num_nodes), machine.gpus_per_node))
    free.subtract(node for gpus in placed.values() for node in gpus)
    for name, width in order:
        if width and name not in placed:
            placed[name] = _spread(width, free)
    return placed


class Tiresias:
    """Discretized least attained service: the first queue, then those demoted, each by arrival.

    Args:
        queue_gpu_s: GPU-seconds of service at which a job is demoted.
    """

    def __init__(self, queue_gpu_s: Seconds = _QUEUE_GPU_SECONDS) -> None:
        self._queue_gpu_s = queue_gpu_s
        self._queues: tuple[list[str], list[str]] = ([], [])
        self._served: Counter[str] = Counter()
        self._running: set[str] = set()
        self._asked_at: Seconds = 0.0

    def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
        """As `Policy`."""
        active = {job.row.name: job for job in jobs}
        first, second = ([name for name in queue if name in active] for queue in self._queues)
        known = {*first, *second}
        first += [name for name in active if name not in known]
        for name in (each for each in active if each in self._running):
            self._served[name] += int(now - self._asked_at) * active[name].row.num_gpus
            if name in first and self._served[name] >= self._queue_gpu_s:
                first.remove(name)
                second.append(name)
        self._queues, self._asked_at = (first, second), now
        left = machine.num_gpus
        order: list[tuple[str, int]] = []
        for name in (*first, *second):
            if active[name].row.num_gpus <= left:
                left -= active[name].row.num_gpus
                order.append((name, active[name].row.num_gpus))
        self._running = {name for name, _ in order}
        kept = {name: active[name].gpus for name in self._running if active[name].gpus}
        return _place(order, kept, machine)


class Optimus:
    """One GPU each, then one at a time to whom it saves the most time by the remaining steps.

    ncf is held at one GPU, as published.
    """

    def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
        """As `Policy`."""
        del now
        left = machine.num_gpus
        widths: dict[str, int] = {}
        gains: dict[str, float] = {}
        for job in jobs:
            widths[job.row.name] = min(1, left)
            left -= widths[job.row.name]
            gains[job.row.name] = _saved(job, 1, machine) if widths[job.row.name] else 0.0
        by_name = {job.row.name: job for job in jobs}
        while left > 0:
            name = max(gains, key=lambda each: gains[each])
            if gains[name] <= 0:
                break
            widths[name] += 1
            left -= 1
            gains[name] = _saved(by_name[name], widths[name], machine)
        kept = {job.row.name: job.gpus for job in jobs if len(job.gpus) == widths[job.row.name]}
        kept = {name: gpus for name, gpus in kept.items() if gpus}
        return _place(sorted(widths.items(), key=lambda each: each[1]), kept, machine)


def _saved(job: Job, width: int, machine: Machine) -> float:
    """Seconds that one GPU more takes off the rest of the job."""
    most = 1 if job.app.name == "ncf" else job.app.most_gpus(job.row.batch)
    if width + 1 > most:
        return 0.0
    last = job.app.num_epochs - 1
    steps = 1.0
    if job.epoch < last:
        batch = job.row.batch
        steps = job.app.iterations(batch, last) - job.app.iterations(batch, job.epoch)
    now, wider = (_seconds(job, each, machine) for each in (width, width + 1))
    return (now - wider) * steps


def _seconds(job: Job, width: int, machine: Machine) -> Seconds:
    """Of one optimizer step on the fewest nodes; on one GPU always in at least two passes."""
    local, extra = job.app.split(job.row.batch, width)
    if width == 1 and not extra:
        local, extra = math.ceil(job.row.batch / 2), 1
    found = job.app.step_time(packed_shape(width, machine.gpus_per_node), local)
    if found is None:
        return math.inf
    return found.step + extra * (found.step - found.sync)
