"""What happens in a simulation, as data: nodes, runs, faults; made from plain values and a seed."""

import difflib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar

from orchestrator.errors import ConfigError
from orchestrator.messages import Event, NodeJoined, NodeLost, RunSubmitted
from orchestrator.types import (
    Card,
    Node,
    NodeId,
    RunId,
    RunSpec,
    Scalar,
    Seconds,
    TrainSettings,
)

__all__ = ["Faults", "NodeGroup", "Script", "Workload", "events", "node_losses", "nodes", "runs"]

GIB = 2**30
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Equal nodes. `speed` divides the seconds of an epoch."""

    count: int
    gpu: str
    memory_gib: float
    gpus: int = 8
    cpus: float = 64.0
    speed: float = 1.0
    ram_gib: float = 0.0  # 0 is not known, and not limited


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Runs that are submitted one after the other; ranges are [least, most]."""

    count: int
    every_seconds: Seconds = 1.0  # mean time between two submissions
    gangs: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})  # GPUs -> weight
    shared: float = 0.0  # part of the single-GPU runs that ask for bytes instead of a whole card
    share_gib: Sequence[float] = (2.0, 12.0)
    batch_per_gpu: Sequence[int] = (8, 16, 32)
    epochs: Sequence[int] = (3, 20)
    epoch_seconds: Sequence[float] = (30.0, 300.0)
    priorities: Mapping[int, float] = field(default_factory=lambda: {50: 1.0})  # -> weight
    too_large: float = 0.0  # part of the shared runs that need more memory than they ask for
    user_errors: float = 0.0  # part of the runs that fail in every attempt
    dependent: float = 0.0  # part of the runs that start from the weights of one before
    ram_gib: Sequence[float] = (0.0, 0.0)  # that each worker asks for
    dependent_reach: int = 20  # how many runs before, at most, that one was submitted

    def __post_init__(self) -> None:
        for name in ("share_gib", "epochs", "epoch_seconds", "ram_gib"):
            limits = getattr(self, name)
            if len(limits) != 2 or limits[0] > limits[1]:
                raise ConfigError(
                    f"runs.{name} is {limits!r}; it must be [least, most]", code="E1202"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong, per attempt; and which nodes are lost."""

    node_losses: int = 0
    node_back_after_seconds: Seconds = 600.0
    start_failure: float = 0.0
    slow_start: float = 0.0
    slow_start_seconds: Seconds = 600.0
    worker_loss: float = 0.0
    flaky: float = 0.0  # the training raises at some moment
    straggler: float = 0.0
    straggler_factor: float = 3.0
    lost_yield: float = 0.0  # the gang never leaves by itself
    lost_kill: float = 0.0  # the first kill does nothing
    silent_loss: float = 0.0  # nothing is ever heard of a gang whose node was lost
    late_event: float = 0.0  # an attempt that is over speaks again
    hang: float = 0.0  # the gang neither reports nor listens from some moment on
    bad_card: float = 0.0  # part of the cards, on which no step ever succeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole simulation."""

    nodes: tuple[NodeGroup, ...]
    runs: Workload
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    preempt: bool = True
    hold_after_seconds: Seconds = 600.0

    @classmethod
    def of(cls, plain: Any) -> "Script":
        """Make a script from what a YAML file holds.

        Raises:
            ConfigError: a key is unknown or missing, or a value is not of its type.
        """
        made = dict(_mapping(plain, ""))
        groups = made.get("nodes", ())
        if not isinstance(groups, list) or not groups:
            raise ConfigError("nodes must be a list of node groups", code="E1202")
        made["nodes"] = tuple(_make(NodeGroup, g, f"nodes[{i}].") for i, g in enumerate(groups))
        made["runs"] = _make(Workload, made.get("runs"), "runs.")
        made["faults"] = _make(Faults, made.get("faults", {}), "faults.")
        return _make(cls, made, "")


def nodes(groups: Sequence[NodeGroup]) -> tuple[Node, ...]:
    """All nodes of the groups, named n0000, n0001, ..."""
    made: list[Node] = []
    for group in groups:
        cards = tuple(
            Card(
                index=index,
                name=group.gpu,
                memory_bytes=int(group.memory_gib * GIB),
                worth=group.speed,
            )
            for index in range(group.gpus)
        )
        for _ in range(group.count):
            node_id = NodeId(f"n{len(made):04}")
            ram = int(group.ram_gib * GIB)
            made.append(Node(node_id=node_id, cards=cards, num_cpus=group.cpus, host_bytes=ram))
    return tuple(made)


def runs(workload: Workload, seed: int) -> Iterator[RunSubmitted]:
    """The submissions, in the order of time."""
    at = 0.0
    for number in range(workload.count):
        chance = random.Random(f"{seed}/run/{number}")
        at += chance.expovariate(1.0 / workload.every_seconds)
        spec = _with_ram(workload, number, _spec(workload, number, chance), seed)
        yield RunSubmitted(at=at, spec=_dependent(workload, number, spec, seed))


def node_losses(cluster: Sequence[Node], faults: Faults, seed: int, until: Seconds) -> list[Event]:
    """Nodes that vanish at some moment before `until`, and come back."""
    happened: list[Event] = []
    chance = random.Random(f"{seed}/node losses")
    for node in chance.sample(list(cluster), min(faults.node_losses, len(cluster))):
        at = chance.uniform(0.05, 0.95) * until
        happened.append(NodeLost(at=at, node_id=node.node_id))
        happened.append(NodeJoined(at=at + faults.node_back_after_seconds, node=node))
    return happened


def events(script: Script) -> tuple[Event, ...]:
    """Everything that happens by itself, in the order of time."""
    cluster = nodes(script.nodes)
    submitted = list(runs(script.runs, script.seed))
    until = submitted[-1].at if submitted else 0.0
    happened: list[Event] = [NodeJoined(at=0.0, node=node) for node in cluster]
    happened += submitted
    happened += node_losses(cluster, script.faults, script.seed, until)
    return tuple(sorted(happened, key=lambda event: event.at))  # stable: nodes before runs


def _spec(workload: Workload, number: int, chance: random.Random) -> RunSpec:
    num_gpus = _weighted(workload.gangs, chance)
    per_gpu = chance.choice(list(workload.batch_per_gpu))
    is_shared = num_gpus == 1 and chance.random() < workload.shared
    share = round(chance.uniform(*workload.share_gib)) * GIB if is_shared else None
    options: dict[str, Scalar] = {"epoch_seconds": chance.uniform(*workload.epoch_seconds)}
    if share is not None:
        need = 1.6 if chance.random() < workload.too_large else 0.9
        options["fixed_bytes"] = share // 4
        options["bytes_per_sample"] = int((share * need - share // 4) / per_gpu)
    if chance.random() < workload.user_errors:
        options["fail_at_epoch"] = 1
    low, high = workload.epochs
    return RunSpec(
        run_id=RunId(f"r{number:06}"),
        project="simulated",
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=640,
            epochs=chance.randint(low, high),
            seed=number,
            options=options,
        ),
        effective_batch=per_gpu * num_gpus,
        folder=f"/simulated/r{number:06}",
        num_gpus=num_gpus,
        memory_bytes=share,
        priority=_weighted(workload.priorities, chance),
    )


def _with_ram(workload: Workload, number: int, spec: RunSpec, seed: int) -> RunSpec:
    """The run with what it asks of RAM, by a chance of its own: the rest stays as it is."""
    if not workload.ram_gib[1]:
        return spec
    gib = random.Random(f"{seed}/ram/{number}").uniform(*workload.ram_gib)
    return replace(spec, host_bytes=int(gib * GIB))


def _dependent(workload: Workload, number: int, spec: RunSpec, seed: int) -> RunSpec:
    """The run after one of those before it, by a chance of its own: the rest stays as it is."""
    chance = random.Random(f"{seed}/after/{number}")
    reach = min(number, workload.dependent_reach)
    if not reach or chance.random() >= workload.dependent:
        return spec
    before = RunId(f"r{number - chance.randint(1, reach):06}")
    return replace(spec, after=(before,), weights_from=before)


def _weighted(weights: Mapping[int, float], chance: random.Random) -> int:
    return int(chance.choices(list(weights), list(weights.values()))[0])


def _make(kind: type[_Made], plain: Any, at: str) -> _Made:
    given = {name: _whole_keys(value) for name, value in _mapping(plain, at).items()}
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # only dataclasses come here
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown key {at}{name}",
                code="E1201",
                why=(f"valid keys: {', '.join(sorted(known))}",),
                fix=(f"{at}{near[0]}",),
            )
        _check(f"{at}{name}", value, known[name].type)
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"missing key {at}{name}", code="E1201", fix=(f"{at}{name}: ...",))
    return kind(**given)


def _check(name: str, value: Any, declared: Any) -> None:
    wanted: tuple[type, ...] = {
        int: (int,),
        float: (int, float),
        bool: (bool,),
        str: (str,),
    }.get(declared, ())
    is_wrong = bool(wanted) and not isinstance(value, wanted)
    if wanted and bool not in wanted:
        is_wrong = is_wrong or isinstance(value, bool)
        is_wrong = is_wrong or (not isinstance(value, str) and not is_wrong and value < 0)
    if is_wrong:
        words = " or ".join(kind.__name__ for kind in wanted)
        raise ConfigError(f"{name} is {value!r}; it must be a {words}, not below 0", code="E1202")
    _check_items(name, value, str(declared))


def _check_items(name: str, value: Any, declared: str) -> None:
    if "Mapping" in declared:
        items = [*value, *value.values()] if isinstance(value, dict) else []
        items = items if not any(isinstance(item, float) for item in value) else []
    elif "Sequence" in declared:
        items = [*value] if isinstance(value, list | tuple) else []
    else:
        return
    if not items or not all(_is_number(item) and item >= 0 for item in items):
        raise ConfigError(f"{name} is {value!r}; it must hold numbers, not below 0", code="E1202")


def _whole_keys(value: Any) -> Any:
    """Keys of a weight table as whole numbers; JSON, and strict YAML, know text keys only."""
    if not isinstance(value, dict):
        return value
    return {
        int(key) if isinstance(key, str) and key.isdecimal() else key: item
        for key, item in value.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(plain: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(plain, dict):
        where = at.rstrip(".") or "the file"
        raise ConfigError(f"{where} must hold keys and values, not {plain!r}", code="E1202")
    return plain
