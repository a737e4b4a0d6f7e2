"""Finds attempts that hang: silence first, then the worker is asked, then its stacks are taken."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.attempt_files import attempt_folder
from orchestrator.cluster.endings import Ending, failure
from orchestrator.cluster.gang import Gang, Rank
from orchestrator.cluster.inbox import Report
from orchestrator.cluster.pulse import Patience, Pulse
from orchestrator.cluster.stacks import dump, stacks_file, waits_for_others
from orchestrator.messages import Recut
from orchestrator.types import AttemptId, Cause, Pace, Seconds

__all__ = ["HangWatch"]

_WAITS = "waits for the others"


@dataclass(slots=True, kw_only=True)
class _Watched:
    gang: Gang
    ray_nodes: Sequence[str]  # of the ranks
    folder: Path
    pulse: Pulse
    asked: Any = None  # the ref of rank 0's answer
    dumping: dict[Any, list[int]] | None = None  # tasks that take the stacks of these ranks
    has_stacks: dict[int, bool] = field(default_factory=dict)  # by rank
    deadline: Seconds = 0.0  # of the answer or the stacks

    def file(self, rank: int) -> Path:
        started = self.gang.ranks[rank].started
        return stacks_file(
            Path(started.folder) if started and started.folder else self.folder, rank
        )


class HangWatch:
    """Watches every attempt that trains.

    The worker is the one who knows when its trainer last came by: reports are thinned out, and a
    driver that was stopped for an hour has simply not read them. So a silent worker is asked, and
    only one that admits the silence, or does not answer, hangs. In a gang rank 0 is asked: ranks
    train in step, so that it is silent when any of them is, and not when it waits for the driver.

    Args:
        patience: How long silence is taken for work.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._watched: dict[AttemptId, _Watched] = {}
        self._dump = ray.remote(dump)

    def begin(self, gang: Gang, ray_nodes: Sequence[str]) -> None:
        """The gang trains from now on, its ranks on nodes that Ray names so."""
        self._watched[gang.attempt] = _Watched(
            gang=gang,
            ray_nodes=ray_nodes,
            folder=attempt_folder(gang.order),
            pulse=Pulse(self._patience.of_run(gang.order.spec.hang_seconds), time.monotonic()),
        )

    def note(self, report: Report) -> None:
        """The attempt said something."""
        one = self._watched.get(report.attempt)
        if one is not None:
            said = None if isinstance(report.content, Recut | Pace) else report.content
            one.pulse.sign(time.monotonic(), said)
            one.asked = one.dumping = None  # it lives, whatever was suspected

    def end(self, attempt: AttemptId) -> None:
        """The attempt is over."""
        self._watched.pop(attempt, None)

    @property
    def waited(self) -> list[Any]:
        """Refs that are under way."""
        refs: list[Any] = []
        for one in self._watched.values():
            refs += one.dumping or ([one.asked] if one.asked is not None else [])
        return refs

    def overdue(self) -> Iterator[tuple[AttemptId, Ending]]:
        """Ask those who were silent for too long; yields those whose time is up, to be killed."""
        now = time.monotonic()
        for attempt, one in tuple(self._watched.items()):
            if one.dumping is not None:
                if now > one.deadline:
                    self.end(attempt)
                    yield attempt, _verdict(one)
            elif one.asked is not None:
                if now > one.deadline:  # not even a thread of its own gets to answer
                    self._take_stacks(one)
            elif one.pulse.silence(now) > one.pulse.limit:
                one.asked = one.gang.ranks[0].actor.quiet_seconds.remote()
                one.deadline = now + self._patience.answer_seconds

    def resolve(self, ref: Any) -> Iterator[tuple[AttemptId, Ending]]:
        """Take an answer or the stacks; yields an attempt that hangs, to be killed."""
        for attempt, one in tuple(self._watched.items()):
            if one.dumping is not None and ref in one.dumping:
                ranks = one.dumping.pop(ref)
                one.has_stacks.update(zip(ranks, _answer(ref) or (), strict=False))
                if not one.dumping:
                    self.end(attempt)
                    yield attempt, _verdict(one)
            elif ref == one.asked:
                self._hear(one, _answer(ref))

    def _hear(self, one: _Watched, quiet_seconds: Seconds | None) -> None:
        one.asked = None
        if quiet_seconds is None:
            one.pulse.sign(time.monotonic())  # its process died, and that is told by itself
        elif quiet_seconds > one.pulse.limit:
            self._take_stacks(one)
        else:
            one.pulse.sign(time.monotonic() - quiet_seconds)

    def _take_stacks(self, one: _Watched) -> None:
        one.dumping = {}
        # One task a node: on a busy machine the next one would begin when the time is up.
        by_node: dict[str, list[tuple[int, int]]] = {}
        for rank, ray_node in zip(one.gang.ranks, one.ray_nodes, strict=True):
            assert rank.started is not None
            by_node.setdefault(ray_node, []).append((rank.number, rank.started.pid))
        for ray_node, ranks in by_node.items():
            place = NodeAffinitySchedulingStrategy(ray_node, soft=False)
            task = self._dump.options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            ref = task.remote([(pid, str(one.file(number))) for number, pid in ranks])
            one.dumping[ref] = [number for number, _ in ranks]
        one.deadline = time.monotonic() + self._patience.answer_seconds


def _verdict(one: _Watched) -> Ending:
    gang, pulse = one.gang, one.pulse
    silence = f"no sign of life for {pulse.silence(time.monotonic()):.0f} s"
    if pulse.longest is not None:
        silence += f", {pulse.longest:.1f} s was the longest before"
    if len(gang.ranks) == 1:
        has = one.has_stacks.get(0, False)
        where = f"its stacks are in {one.file(0)}" if has else "it could not even tell its stacks"
        return failure(Cause.HANG, f"{gang.told(gang.ranks[0])}: {silence}; {where}")
    told = [_stand(one, rank) for rank in gang.ranks]
    waiting = [rank for rank, where in zip(gang.ranks, told, strict=True) if where == _WAITS]
    culprits = [rank for rank in gang.ranks if rank not in waiting]
    lines = [f"{gang.told(rank)} {where}" for rank, where in zip(gang.ranks, told, strict=True)]
    who = " and ".join(f"rank {rank.number}" for rank in culprits) if waiting and culprits else ""
    head = f"{who} hangs, the others wait for it" if who else "the ranks hang"
    return failure(Cause.HANG, "\n".join([f"{head}: {silence}", *lines, f"in {one.folder}"]))


def _stand(one: _Watched, rank: Rank) -> str:
    if not one.has_stacks.get(rank.number):
        return "could not even tell its stacks"
    file = one.file(rank.number)
    try:
        return _WAITS if waits_for_others(file) else f"stands as {file.name} tells"
    except OSError:
        return f"wrote {file.name} where the driver does not see it"


def _answer(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError:
        return None
