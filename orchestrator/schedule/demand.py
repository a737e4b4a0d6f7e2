"""Which nodes to ask an autoscaler for: those that waiting runs need, and none besides.

First runs are put, in the order of the queue, where the cluster will have room for them soon
enough. New nodes are asked for the rest: a gang that no type holds alone gets as many nodes of one
type as it needs, and what else waits is grouped so that the nodes cost least (`grouping`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.schedule.asks import Ask, workers_on
from orchestrator.schedule.cards import Kind
from orchestrator.schedule.grouping import group
from orchestrator.schedule.offers import NewNode
from orchestrator.schedule.vacancy import Vacancy, empty
from orchestrator.types import DeviceKind, NodeType, RunId

__all__ = ["Demand", "Want", "demand"]

MAX_WANTS = 200  # runs looked at; those behind are looked at when some of these have started


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A run that waits, and what it asks for.

    `is_spread`: a gang of several may take several nodes, as none that is there could hold it.
    """

    run_id: RunId
    ask: Ask
    is_spread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is needed. A run that is in none of the three was not looked at.

    `nodes` are new ones; a gang that needs several is named by each. `soon` are the runs that the
    cluster will hold by itself; `left_out` those for which as many nodes as may be are too few, or
    that no type holds.
    """

    nodes: tuple[NewNode, ...] = ()
    soon: tuple[RunId, ...] = ()
    left_out: tuple[RunId, ...] = ()


def demand(
    wants: Sequence[Want],
    types: Sequence[NodeType],
    vacancies: Sequence[Vacancy],
    num_there: Mapping[str, int],
) -> Demand:
    """Compute which nodes to ask for.

    Args:
        wants: Runs that wait, in the order of the queue.
        types: What the autoscaler may bring.
        vacancies: What is free on the nodes that are there, or will be soon enough. Filled here.
        num_there: How many nodes of each type are there.
    """
    wants = wants[:MAX_WANTS]
    left = {each.name: max(each.max_nodes - num_there.get(each.name, 0), 0) for each in types}
    order = {want.run_id: place for place, want in enumerate(wants)}
    unheld = {want.run_id: want for want in wants if not _fits(want, vacancies)}
    soon = tuple(run_id for run_id in order if run_id not in unheld)
    nodes: list[NewNode] = []
    rooms: list[Vacancy] = []  # of new nodes that gangs share
    for want in tuple(unheld.values()):
        is_alone = any(workers_on(each, want.ask) >= want.ask.num_workers for each in types)
        made = [] if is_alone or not want.is_spread else _spread(want.ask, types, left, vacancies)
        nodes += [NewNode(node_type=name, runs=(want.run_id,)) for name, _ in made]
        rooms += [room for _, room in made]
        if made:
            del unheld[want.run_id]
    single = {run_id: want for run_id, want in unheld.items() if not _fits(want, rooms)}
    ids = tuple(single)
    asks = [want.ask for want in single.values()]
    for at, runs in group(asks, types, [left[each.name] for each in types]):
        grouped = tuple(ids[run] for run in runs)
        nodes.append(NewNode(node_type=types[at].name, runs=grouped))
        for run_id in grouped:
            del single[run_id]
    nodes.sort(key=lambda node: (order[node.runs[0]], node.node_type))
    return Demand(nodes=tuple(nodes), soon=soon, left_out=tuple(single))


def _fits(want: Want, vacancies: Sequence[Vacancy]) -> bool:
    """Put a run where there is room: on one node, else on several; False where there is none."""
    ask = want.ask
    if ask.device is DeviceKind.CPU:
        return any(room.take(ask) for room in vacancies)
    for kind in sorted({kind for room in vacancies for kind in room.cards}):
        fitting = _fitting(ask, kind, vacancies)
        alone = [entry for entry in fitting if entry[0] >= ask.num_workers]
        if alone:
            alone[-1][1].take_workers(ask, kind, ask.num_workers)
            return True
        if want.is_spread and sum(num for num, _ in fitting) >= ask.num_workers:
            _gather(ask, kind, fitting)
            return True
    return False


def _fitting(ask: Ask, kind: Kind, vacancies: Iterable[Vacancy]) -> list[tuple[int, Vacancy]]:
    """Nodes with the number of workers that their cards of a kind could hold, most first."""
    fitting = [(room.num_workers(ask, kind), room) for room in vacancies if kind in room.cards]
    return sorted((entry for entry in fitting if entry[0]), key=lambda entry: -entry[0])


def _gather(ask: Ask, kind: Kind, fitting: Iterable[tuple[int, Vacancy]]) -> None:
    """Take workers from one node after the other until the gang is whole."""
    missing = ask.num_workers
    for most, room in fitting:
        taken = min(most, missing)
        if taken:
            room.take_workers(ask, kind, taken)
            missing -= taken


def _spread(
    ask: Ask, types: Sequence[NodeType], left: dict[str, int], vacancies: Sequence[Vacancy]
) -> list[tuple[str, Vacancy]]:
    """New nodes for a gang that needs several: the type that is cheapest in all; none if none do.

    What nodes of the same kind have free already is taken first.
    """
    options: list[tuple[float, int, int]] = []
    for place, each in enumerate(types):
        workers = 0 if ask.device is DeviceKind.CPU else workers_on(each, ask)
        if workers:
            there = _fitting(ask, (each.memory_bytes, each.gpu), vacancies)
            num = -(-(ask.num_workers - sum(entry[0] for entry in there)) // workers)
            if num <= left[each.name]:
                options.append((num * each.price, num, place))
    if not options:
        return []
    _, num, place = min(options)
    chosen = types[place]
    left[chosen.name] -= num
    made = [empty(chosen) for _ in range(num)]
    kind = (chosen.memory_bytes, chosen.gpu)
    _gather(ask, kind, [*_fitting(ask, kind, vacancies), *_fitting(ask, kind, made)])
    return [(chosen.name, room) for room in made]
