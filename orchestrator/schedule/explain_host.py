"""What a run asks for; what its nodes have of CPUs and RAM, and what would help."""

from collections.abc import Iterator

from orchestrator.schedule.asks import Ask, Route
from orchestrator.schedule.cards import NO_LIMIT, NodeRoom, ram_of
from orchestrator.schedule.ledger import Ledger
from orchestrator.selectors import selector_text
from orchestrator.types import Bytes, DeviceKind, PendingReason

__all__ = ["asked", "host_asked", "host_available", "host_remedies"]


def asked(ask: Ask, route: Route) -> str:
    """What a run asks for, in words: "1 x GPU, 3.0 GiB each"."""
    if ask.device is DeviceKind.CPU:
        return f"{host_asked(ask)} of one node{_where(ask)}"
    words = f"{ask.num_workers} x GPU"
    if ask.gpu_types:
        words += f" ({' or '.join(ask.gpu_types)})"
    words += ", a whole card each" if ask.size is None else f", {_size(ask.size)} each"
    if ask.over_bytes:
        words += f" of more than {_size(ask.over_bytes)}"
    if ask.is_host_counted:
        words += f", {host_asked(ask)} each"
    if ask.num_workers > 1:
        words += ", spread" if route.is_spread else ", on one node"
    return words + _where(ask)


def _where(ask: Ask) -> str:
    """On which nodes, in words; empty for all."""
    return f", on nodes with {selector_text(ask.labels)}" if ask.labels else ""


def host_asked(ask: Ask) -> str:
    """What each worker asks for, in words: "4 CPUs, 8.0 GiB of RAM"; empty for nothing."""
    cpus = f"{ask.num_cpus:g} CPUs" if ask.num_cpus else ""
    ram = f"{_size(ask.host_bytes)} of RAM" if ask.host_bytes else ""
    return ", ".join(filter(None, (cpus, ram)))


def host_available(ask: Ask, ledger: Ledger) -> Iterator[str]:
    """What one node has and has free at most, of what is asked for."""
    if ask.num_cpus:
        free = max((room.free_cpus for room in _rooms(ask, ledger)), default=0.0)
        yield f"CPUs of one node: {_most_cpus(ask, ledger):g} at most, {free:g} free at most"
    if ask.host_bytes:
        most = _most_ram(ask, ledger)
        if most >= NO_LIMIT:
            yield "RAM of one node: not told by some, and not limited there"
            return
        left = max((room.free_host_bytes for room in _rooms(ask, ledger)), default=0)
        yield f"RAM of one node: {_size(most)} at most, {_size(left)} free at most"


def host_remedies(ask: Ask, reason: PendingReason, ledger: Ledger) -> Iterator[str]:
    """What to change where CPUs, RAM or one node are what it waits for, or can never get."""
    is_waiting = reason is PendingReason.WAITING_FOR_CPU_OR_RAM
    if ask.is_on_one_node and ask.num_workers > 1 and not is_waiting:
        yield "let it have cards of several nodes: leave out resources.nodes"
    cpus, ram = _most_cpus(ask, ledger), _most_ram(ask, ledger)
    if ask.num_cpus and (is_waiting or ask.cpus > cpus):
        yield f"ask for fewer CPUs (a node has {cpus:g} at most): resources.cpus"
    if ask.host_bytes and (is_waiting or ask.ram > ram):
        has = f" (a node has {_size(ram)} at most)" if ram < NO_LIMIT else ""
        yield (
            f"need less RAM{has}: resources.ram where a size was said, else fewer workers, or"
            f" cache=false in place of ram"
        )


def _rooms(ask: Ask, ledger: Ledger) -> Iterator[NodeRoom]:
    """Nodes where the run may be."""
    return (room for room in ledger.nodes.values() if room.admits(ask.labels))


def _most_cpus(ask: Ask, ledger: Ledger) -> float:
    return max((room.node.num_cpus for room in _rooms(ask, ledger)), default=0.0)


def _most_ram(ask: Ask, ledger: Ledger) -> Bytes:
    return max((ram_of(room.node) for room in _rooms(ask, ledger)), default=0)


def _size(num_bytes: Bytes) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
