"""Why a run waits for a node that an autoscaler brings: which, asked when, how many may come."""

from collections.abc import Iterator

from orchestrator.schedule.asks import Ask, workers_on
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.offers import Offers
from orchestrator.types import NodeType, PendingReason, RunId, Seconds

__all__ = ["node_available", "node_remedies", "node_sentence"]


def node_sentence(run_id: RunId, reason: PendingReason, offers: Offers, at: Seconds) -> str:
    """What was asked for a run and when; empty where it waits for no node."""
    if reason is not PendingReason.WAITING_FOR_NODE:
        return ""
    asked = offers.asked.get(run_id)
    if asked is None and run_id in offers.left_out:
        return "it needs a node that may come, and no more of them may be asked for"
    if asked is None:
        return "it needs a node that may come; it will be asked for when it is the run's turn"
    nodes = "a node" if asked.num == 1 else f"{asked.num} nodes"
    words = f"waiting for {nodes} of type {asked.node_type}, asked {_clock(asked.since)}"
    if offers.is_late(run_id, at):
        minutes = (at - asked.since) / 60
        words += f"; {'it' if asked.num == 1 else 'they'} should have come: {minutes:.0f} min ago"
    return words


def node_available(ask: Ask, offers: Offers, ledger: Ledger) -> Iterator[str]:
    """What may come: one line a type, with how many of it are there."""
    for each in offers.node_types:
        there = sum(room.node.node_type == each.name for room in ledger.nodes.values())
        line = f"node type {each.name} ({_cards(each)}): {there} of {each.max_nodes} there"
        yield line if workers_on(each, ask) else f"{line} (does not match)"


def node_remedies(run_id: RunId, offers: Offers, at: Seconds) -> Iterator[str]:
    """What to do where a node does not come."""
    asked = offers.asked.get(run_id)
    if run_id in offers.left_out:
        yield "allow more nodes: max of its type, in cluster.node_types and in the cluster's setup"
    elif asked is not None and offers.is_late(run_id, at):
        yield "see what the autoscaler says: ray status, on the head node"
        yield (
            f"compare type {asked.node_type} of cluster.node_types with the cluster's own: labels,"
            " GPUs and max have to be the same; the provider's quota may be used up"
        )


def _cards(each: NodeType) -> str:
    if not each.num_cards:
        return f"{each.num_cpus:g} CPUs"
    size = f"{each.memory_bytes / 2**30:.1f} GiB"
    return f"{each.num_cards} x {each.gpu} {size}" if each.num_cards > 1 else f"{each.gpu} {size}"


def _clock(at: Seconds) -> str:
    """Hours and minutes of a moment, in UTC: the core knows no time zone."""
    minutes = int(at // 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d} UTC"
