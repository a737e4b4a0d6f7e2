"""What a gang asks for, and which cards of the cluster could ever hold it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from orchestrator.schedule.cards import NO_LIMIT, Kind, Model, Pool, Size
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.offers import Offers
from orchestrator.selectors import Selector, admits
from orchestrator.types import Bytes, DeviceKind, NodeType, PendingReason, RunSpec

__all__ = [
    "Ask",
    "Route",
    "Router",
    "could_hold",
    "is_allowed",
    "is_kind",
    "matches",
    "within_host",
    "workers_on",
]

# "RTX 4080" is not the "RTX 4080 SUPER": these words name another card of the same number.
_VARIANTS = frozenset({"ti", "super", "laptop", "mobile", "max", "d"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a gang needs. Runs with equal asks fit, or do not fit, together."""

    device: DeviceKind
    num_workers: int
    size: Size  # per worker; None is a whole card
    gpu_types: tuple[str, ...]
    num_cpus: float  # per worker
    over_bytes: Bytes = 0  # cards must have more memory than this
    may_spread: bool = False  # over several nodes even where one could hold it
    host_bytes: Bytes = 0  # RAM per worker
    is_on_one_node: bool = False
    labels: Selector = ()  # that its nodes must have

    @classmethod
    def of(cls, spec: RunSpec) -> "Ask":
        """The ask of a run as it was submitted."""
        return cls(
            device=spec.device,
            num_workers=spec.num_gpus,
            size=spec.memory_bytes,
            gpu_types=tuple(sorted(spec.gpu_types)),
            num_cpus=spec.num_cpus,
            host_bytes=spec.host_bytes,
            is_on_one_node=spec.is_on_one_node,
            labels=tuple(sorted(spec.labels.items())) if spec.labels else (),
        )

    @property
    def cpus(self) -> float:
        """CPUs of the whole gang."""
        return self.num_cpus * self.num_workers

    @property
    def ram(self) -> Bytes:
        """Bytes of RAM of the whole gang."""
        return self.host_bytes * self.num_workers

    @property
    def is_host_counted(self) -> bool:
        """True when it asks for something of its nodes besides cards."""
        return bool(self.num_cpus or self.host_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which cards could ever hold an ask, given all known nodes; `reason` when none can."""

    pools: tuple[Pool, ...] = ()  # smallest card first
    is_spread: bool = False
    is_mixed: bool = False
    reason: PendingReason | None = None

    @property
    def is_possible(self) -> bool:
        """True when a node could hold the ask that is there, or that an autoscaler may bring."""
        return self.reason in (None, PendingReason.WAITING_FOR_NODE)


@cache
def _words(name: str) -> tuple[str, ...]:
    """A card's name as it is compared: without vendor and case, "RTX4090" as "rtx 4090"."""
    spaced = re.sub(r"\b(rtx|gtx)(?=\d)", r"\1 ", name.lower())
    return tuple(w for w in re.findall(r"[a-z0-9]+", spaced) if w not in ("nvidia", "geforce"))


def is_kind(wanted: str, name: str) -> bool:
    """True when a card's name has the wanted words side by side, and is no variant of them.

    "A100" is "NVIDIA A100-SXM4-40GB", "rtx4090" is "NVIDIA GeForce RTX 4090"; "A10" is not "A100"
    and "RTX 4080" is not "RTX 4080 SUPER".
    """
    few, many = _words(wanted), _words(name)
    for at in range(len(many) - len(few) + 1):
        if few and many[at : at + len(few)] == few:
            return many[at + len(few) : at + len(few) + 1] not in {(v,) for v in _VARIANTS}
    return False


def matches(ask: Ask, pool: Pool) -> bool:
    """True when the ask allows cards of this kind and each is large enough."""
    if pool.memory_bytes <= ask.over_bytes or (ask.size or 0) > pool.memory_bytes:
        return False
    return not ask.gpu_types or any(is_kind(wanted, pool.name) for wanted in ask.gpu_types)


@lru_cache(maxsize=4096)
def is_allowed(ask: Ask, kind: Kind) -> bool:
    """As `matches`, for a kind of card."""
    return matches(ask, Pool(kind))


def workers_on(kind: NodeType, ask: Ask) -> int:
    """Workers of an ask that a new node holds; of an ask without cards all or none."""
    room = kind.host_bytes or NO_LIMIT
    if ask.labels and not admits(ask.labels, kind.labels):
        return 0
    if ask.device is DeviceKind.CPU:
        return ask.num_workers if kind.num_cpus >= ask.cpus and room >= ask.ram else 0
    if not kind.num_cards or not is_allowed(ask, (kind.memory_bytes, kind.gpu)):
        return 0
    return within_host(ask, kind.num_cards, kind.num_cpus, room)


def could_hold(ask: Ask, types: Iterable[NodeType]) -> bool:
    """True when as many nodes of one type as may be could hold the ask, were nothing else there."""
    for each in types:
        workers = workers_on(each, ask)
        if workers >= ask.num_workers and each.max_nodes:
            return True
        may_be_spread = ask.device is DeviceKind.GPU and not ask.is_on_one_node
        if may_be_spread and workers * each.max_nodes >= ask.num_workers:
            return True
    return False


class Router:
    """Finds the route of an ask and keeps it until the inventory changes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._inventory = -1
        self._routes: dict[Ask, Route] = {}
        self.offers = Offers()

    def forget(self) -> None:
        """What nodes may come is another."""
        self._routes.clear()

    def route(self, ask: Ask) -> Route:
        """The cards that could hold the ask if nothing else ran."""
        if self._inventory != self._ledger.inventory:
            self._inventory = self._ledger.inventory
            self._routes.clear()
        found = self._routes.get(ask)
        if found is None:
            found = _route(ask, self._ledger)
            if found.reason is not None and could_hold(ask, self.offers.node_types):
                found = replace(found, reason=PendingReason.WAITING_FOR_NODE)
            self._routes[ask] = found
        return found

    def largest(self, ask: Ask) -> Bytes:
        """Memory of the largest card of the allowed kinds that is known, or may come; else 0."""
        anyone = replace(ask, size=None, over_bytes=0)
        kinds = {kind for _, _, cards in _models(ask, self._ledger) for kind, _ in cards}
        types = (t for t in self.offers.node_types if t.num_cards and admits(ask.labels, t.labels))
        kinds.update((each.memory_bytes, each.gpu) for each in types)
        return max((kind[0] for kind in kinds if is_allowed(anyone, kind)), default=0)


def _models(ask: Ask, ledger: Ledger) -> Mapping[Model, int]:
    """Make-ups of the nodes where an ask may be, by their labels; how many have each."""
    if not ask.labels:
        return ledger.models
    return Counter(room.model for room in ledger.nodes.values() if room.admits(ask.labels))


def _route(ask: Ask, ledger: Ledger) -> Route:
    models = _models(ask, ledger)
    if ask.labels and ledger.nodes and not models:
        return Route(reason=PendingReason.NO_MATCHING_LABELS)
    if ask.device is DeviceKind.CPU:
        enough = any(cpus >= ask.cpus and ram >= ask.ram for cpus, ram, _ in models)
        return Route(reason=None if enough else PendingReason.EXCEEDS_CLUSTER)
    pools = tuple(pool for kind, pool in sorted(ledger.pools.items()) if matches(ask, pool))
    if not pools:
        return Route(reason=PendingReason.NO_MATCHING_GPU)
    if ask.labels:
        there = {kind for _, _, cards in models for kind, _ in cards}
        pools = tuple(pool for pool in pools if pool.kind in there)
    return _route_over(ask, pools, models)


def _route_over(ask: Ask, pools: tuple[Pool, ...], models: Mapping[Model, int]) -> Route:
    """The route over some pools: one kind of card where one is enough, one node before several."""
    if not pools:
        return Route(reason=PendingReason.NO_MATCHING_LABELS)
    rank = {pool: _holds(ask, (pool,), models) for pool in pools}
    if any(one for one, _ in rank.values()):
        return Route(pools=tuple(pool for pool in pools if rank[pool][0]))
    if any(spread for _, spread in rank.values()):
        return Route(pools=tuple(pool for pool in pools if rank[pool][1]), is_spread=True)
    one, spread = _holds(ask, pools, models)
    if one or spread:
        return Route(pools=pools, is_mixed=True, is_spread=not one)
    return Route(reason=PendingReason.EXCEEDS_CLUSTER)


def _holds(ask: Ask, pools: tuple[Pool, ...], models: Mapping[Model, int]) -> tuple[bool, bool]:
    """Whether one node, and whether all of these, could hold the ask when empty."""
    kinds = {pool.kind for pool in pools}
    most = total = 0
    for (cpus, ram, cards), num_nodes in models.items():
        num = within_host(ask, sum(n for kind, n in cards if kind in kinds), cpus, ram)
        most, total = max(most, num), total + num * num_nodes
    return most >= ask.num_workers, total >= ask.num_workers and not ask.is_on_one_node


def within_host(ask: Ask, num: int, cpus: float, host_bytes: Bytes) -> int:
    """As many of `num` workers as these CPUs and these bytes of RAM allow; never below zero."""
    if ask.num_cpus:
        num = min(num, max(int(cpus / ask.num_cpus + 1e-9), 0))
    if ask.host_bytes:
        num = min(num, max(host_bytes // ask.host_bytes, 0))
    return num
