"""Made from a seed: a small cluster, its runs, what people ask for, and all that goes wrong."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cluster.script import Faults
from orchestrator.cluster.sim_network import Partition
from orchestrator.messages import (
    CancelRequested,
    Event,
    NodeJoined,
    NodeLost,
    PlaceMended,
    PriorityChanged,
    ResumeRequested,
)
from orchestrator.types import (
    Card,
    DeviceKind,
    Node,
    NodeId,
    RetryBudget,
    RunId,
    RunSpec,
    Scalar,
    Seconds,
    TrainSettings,
)

__all__ = ["Work"]

GIB = 2**30
_KINDS = (("RTX 2060", 6), ("RTX 4090", 24), ("A100", 40))
_SPAN = 1500.0  # seconds within which everything that goes wrong begins
_DATES = (0.0, 0.0, 50.0, -50.0, 3600.0, -3600.0, 86400.0, -86400.0)  # errors of a driver's date


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One schedule. Equal seeds give equal ones."""

    happenings: tuple[Event, ...]
    runs: tuple[tuple[Seconds, RunSpec], ...]
    wishes: tuple[tuple[Seconds, Event], ...]
    partitions: tuple[Partition, ...]
    faults: Faults
    duplicate: float
    deaths: tuple[tuple[int, bool, Seconds], ...]  # operations until it, of the store?, next date

    @classmethod
    def of(cls, seed: int) -> "Work":
        """Make the schedule of a seed."""
        chance = random.Random(f"faults/{seed}")
        nodes = _nodes(chance)
        runs = tuple(
            (chance.uniform(0, 600) if chance.random() < 0.7 else 0.0, _run(chance, number))
            for number in range(chance.randint(3, 8))
        )
        return cls(
            happenings=_happenings(chance, nodes),
            runs=runs,
            wishes=_wishes(chance, [spec for _, spec in runs], nodes),
            partitions=tuple(
                Partition(
                    node_id=chance.choice(nodes).node_id,
                    at=chance.uniform(20, _SPAN),
                    seconds=chance.uniform(10, 600),
                )
                for _ in range(chance.choice((0, 0, 1, 2)))
            ),
            faults=_faults(chance),
            duplicate=chance.choice((0.0, 0.1, 0.5)),
            deaths=tuple(
                (chance.randint(1, 150), chance.random() < 0.4, chance.choice(_DATES))
                for _ in range(chance.choice((0, 0, 1, 2, 5)))
            ),
        )


def _nodes(chance: random.Random) -> list[Node]:
    """The first can hold whatever is asked for."""
    made = []
    for number in range(chance.randint(1, 3)):
        kinds = [_KINDS[2]] * 2 if number == 0 else []
        kinds += [chance.choice(_KINDS) for _ in range(chance.randint(0 if number == 0 else 1, 2))]
        cards = tuple(
            Card(index=index, name=name, memory_bytes=gib * GIB)
            for index, (name, gib) in enumerate(kinds)
        )
        made.append(Node(node_id=NodeId(f"n{number}"), cards=cards, num_cpus=8.0))
    return made


def _run(chance: random.Random, number: int) -> RunSpec:
    num_gpus = chance.choice((1, 1, 1, 2))
    is_cpu = chance.random() < 0.1
    share = chance.choice((None, 2, 3, 5, 11)) if not is_cpu else None
    return RunSpec(
        run_id=RunId(f"r{number}"),
        project=f"p{number % 3}",
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=32,
            epochs=chance.randint(1, 4),
            options=_options(chance, share),
        ),
        effective_batch=8 * (1 if is_cpu else num_gpus),
        folder=f"/runs/r{number}",
        device=DeviceKind.CPU if is_cpu else DeviceKind.GPU,
        num_gpus=1 if is_cpu else num_gpus,
        memory_bytes=None if share is None else share * GIB,
        num_cpus=chance.choice((1.0, 4.0)) if is_cpu else chance.choice((0.0, 0.0, 1.0)),
        priority=chance.choice((10, 50, 50, 90)),
        retry=RetryBudget(
            user_errors=chance.randint(0, 2),
            nan_losses=chance.randint(0, 2),
            hangs=chance.randint(0, 2),
            device_faults=chance.randint(0, 3),
            losses_without_progress=chance.randint(0, 3),
        ),
        max_duration_seconds=chance.choice((None, None, None, 400.0)),
    )


def _options(chance: random.Random, share: int | None) -> dict[str, Scalar]:
    options: dict[str, Scalar] = {"epoch_seconds": chance.uniform(20, 200)}
    if share is not None and chance.random() < 0.2:  # more than it asks for, unless it is cut
        options |= {"fixed_bytes": share * GIB // 4, "bytes_per_sample": share * GIB // 6}
    if chance.random() < 0.4:
        name = chance.choice(("fail", "nan", "crash", "hang"))
        options |= {f"{name}_at_epoch": chance.randint(1, 3)}
        options |= {"fault_attempts": chance.randint(1, 4)}
    return options


def _happenings(chance: random.Random, nodes: Sequence[Node]) -> tuple[Event, ...]:
    happened: list[Event] = [NodeJoined(at=0.0, node=node) for node in nodes]
    for node in nodes:
        if chance.random() < 0.4:
            at = chance.uniform(10, _SPAN)
            happened.append(NodeLost(at=at, node_id=node.node_id))
            happened.append(NodeJoined(at=at + chance.choice((1.0, 30.0, 300.0, 900.0)), node=node))
    return tuple(sorted(happened, key=lambda event: event.at))


def _wishes(
    chance: random.Random, specs: Sequence[RunSpec], nodes: Sequence[Node]
) -> tuple[tuple[Seconds, Event], ...]:
    wishes: list[tuple[Seconds, Event]] = []
    for _ in range(chance.choice((0, 1, 3, 6))):
        run_id, at = chance.choice(specs).run_id, chance.uniform(0, 2 * _SPAN)
        node_id = chance.choice(nodes).node_id
        wish: Event = chance.choice(
            (
                CancelRequested(at=0.0, run_id=run_id, now=chance.random() < 0.5),
                ResumeRequested(at=0.0, run_id=run_id),
                PriorityChanged(at=0.0, run_id=run_id, priority=chance.choice((0, 50, 100))),
                PlaceMended(at=0.0, node_id=node_id),
            )
        )
        wishes.append((at, wish))
        if isinstance(wish, CancelRequested) and chance.random() < 0.5:
            wishes.append((at + chance.uniform(0, 200), ResumeRequested(at=0.0, run_id=run_id)))
    return tuple(sorted(wishes, key=lambda wish: wish[0]))


def _faults(chance: random.Random) -> Faults:
    def rate(most: float) -> float:
        return chance.choice((0.0, 0.0, most / 3, most))

    return Faults(
        start_failure=rate(0.3),
        slow_start=rate(0.2),
        worker_loss=rate(0.3),
        flaky=rate(0.5),
        straggler=rate(0.3),
        lost_yield=rate(0.5),
        lost_kill=rate(0.5),
        silent_loss=rate(0.8),
        late_event=rate(0.6),
        hang=rate(0.3),
        bad_card=rate(0.3),
    )
