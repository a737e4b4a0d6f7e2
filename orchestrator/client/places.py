"""In which order runs start, and what people may ask to change of a run that they name."""

import heapq
from collections import Counter, deque
from collections.abc import Sequence

from orchestrator.client.records import Run
from orchestrator.errors import ConfigError
from orchestrator.schedule.fair import HORIZON_SECONDS
from orchestrator.schedule.standing import QueueStanding, Standing
from orchestrator.types import RunState, Seconds

__all__ = ["demand_movable", "demand_priority", "demand_resumable", "in_turn", "place"]


def place(run: Run) -> tuple[bool, int, bool, int, Seconds]:
    """What unfinished runs are sorted by: those that hold a card first, then as they will start."""
    is_new = run.order is None  # the driver gives it a place behind all others
    return not run.state.holds_gpus, -run.priority, is_new, run.order or 0, run.submitted_at


def in_turn(runs: Sequence[Run], standing: Standing) -> tuple[Run, ...]:
    """Runs of several queues as a driver would take them if each got one average card.

    Those that hold cards come first. Of one priority the queue goes next that has had least for its
    weight, what it is given on the way included; who is beyond the quota of his queue goes last.

    Args:
        runs: Sorted by `place`.
        standing: What the driver told of queues; where it told nothing, they begin as equals.
    """
    known = {one.name: one for one in standing.queues}
    queues = {run.queue: known.get(run.queue, QueueStanding(name=run.queue)) for run in runs}
    ranks = {name: one.rank for name, one in queues.items()}
    given: Counter[str] = Counter()
    taken = [run for run in runs if run.state.holds_gpus]
    beyond: list[Run] = []
    waiting = [run for run in runs if not run.state.holds_gpus]
    for priority in sorted({run.priority for run in waiting}, reverse=True):
        lines: dict[str, deque[tuple[int, Run]]] = {}
        for at, run in enumerate(waiting):
            if run.priority == priority:
                lines.setdefault(run.queue, deque()).append((at, run))
        heap = [(ranks[name], line[0][0], name) for name, line in lines.items()]
        heapq.heapify(heap)
        while heap:
            *_, name = heap[0]
            one, line = queues[name], lines[name]
            if one.max_gpus is not None and one.num_gpus + given[name] + 1 > one.max_gpus:
                beyond += [run for _, run in line]
                heapq.heappop(heap)
                continue
            taken.append(line.popleft()[1])
            given[name] += 1
            ranks[name] += standing.worth * HORIZON_SECONDS / one.weight
            if line:
                heapq.heapreplace(heap, (ranks[name], line[0][0], name))
            else:
                heapq.heappop(heap)
    return (*taken, *beyond)


def demand_priority(priority: int) -> None:
    """Raise ConfigError (E1033) where a priority is outside -1000 to 1000."""
    if not -1000 <= priority <= 1000:
        raise ConfigError(
            f"priority {priority} is outside -1000 to 1000",
            code="E1033",
            fix=("50 is what runs have by default; higher goes first",),
        )


def demand_resumable(run: Run) -> None:
    """Raise ConfigError (E1032) where nothing is left to go on with."""
    if run.state is RunState.SUCCEEDED:
        raise ConfigError(
            f"{run.id} has succeeded; there is nothing to go on with",
            code="E1032",
            fix=("train it again under a changed config: orc rerun RUN epochs=N",),
        )


def demand_movable(run: Run, other: Run | None) -> None:
    """Raise ConfigError (E1034) where a run cannot go to a place, or before another run."""
    for each in (run, other):
        if each is not None and each.state.is_terminal:
            raise _unmovable(f"{each.id} has ended: {each.state.value}", "orc queue shows all")
    if other is None:
        return
    if other.id == run.id:
        raise _unmovable(f"{run.id} cannot go before itself", "name another run")
    if other.priority != run.priority:
        raise _unmovable(
            f"{run.id} has priority {run.priority}, {other.id} has {other.priority}",
            f"orc queue set {run.id} priority={other.priority}, then move it",
        )


def _unmovable(what: str, fix: str) -> ConfigError:
    return ConfigError(what, code="E1034", fix=(fix,))
