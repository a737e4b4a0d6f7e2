"""Whole simulations of runs that may be on some nodes only; the cluster refuses any other."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from orchestrator.cluster.script import Script, events
from orchestrator.cluster.sim import SimCluster
from orchestrator.driver import drive
from orchestrator.errors import ClusterError
from orchestrator.messages import (
    Event,
    NodeChanged,
    NodeJoined,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.policy import Policy
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.store.memory import MemoryStore
from orchestrator.types import AttemptId, BatchPlan, Node, PendingReason, Placement, Share
from tests.sim.test_simulation import SCRIPT
from tests.strategies import GIB, make_node, make_spec

SELECTORS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"zone": "a"},
    {"zone": "!a"},
    {"zone": "in(a,b)"},
    {"disk": "!slow"},
)


def labelled(node: Node, number: int) -> Node:
    """Half of the nodes in each zone; every third has a slow disk."""
    zone = "ab"[number % 2]
    return replace(node, labels={"zone": zone} | ({"disk": "slow"} if number % 3 == 0 else {}))


def happenings(script: Script, *, is_elastic: bool = False) -> Iterator[Event]:
    """Those of a script with labels on nodes and runs, and labels that change now and then."""
    chance = random.Random(script.seed)
    for event in events(script):
        match event:
            case NodeJoined(node=node):
                yield replace(event, node=labelled(node, int(node.node_id[1:])))
            case RunSubmitted(spec=spec):
                # Twelve cards are in no zone alone.
                labels = {} if spec.num_gpus > 8 else chance.choice(SELECTORS)
                spec = replace(spec, labels=labels)
                if is_elastic and spec.num_gpus > 1:
                    spec = replace(spec, min_gpus=1)
                yield replace(event, spec=spec)
            case _:
                yield event


def changes(script: Script) -> Iterator[Event]:
    """Nodes that move to the other zone and back; two of each kind stay."""
    nodes = [event.node for event in events(script) if isinstance(event, NodeJoined)][:2]
    for at in range(100, 2000, 100):
        for number, node in enumerate(nodes):
            yield NodeChanged(at=float(at), node=labelled(node, number + at // 100))


@pytest.mark.parametrize("policy", [None, ShortestFlow()])
@pytest.mark.parametrize("by_speed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_run_ends_and_none_is_ever_put_on_another_node(
    seed: int, by_speed: bool, policy: Policy | None
) -> None:
    script = replace(SCRIPT, seed=seed)
    script = replace(script, faults=replace(script.faults, node_losses=0 if seed else 3))
    scheduler = Scheduler(policy=policy, places_by_speed=by_speed)
    told = [*happenings(script, is_elastic=policy is not None), *changes(script)]
    cluster = SimCluster(told, faults=script.faults, seed=seed)
    store, reasons, num_seen = MemoryStore(), set[PendingReason | None](), 0

    def observe(_: Event) -> None:
        nonlocal num_seen
        num_seen += 1
        if num_seen % 11 == 0:
            scheduler.check()
            reasons.update(status.reason for status in scheduler.statuses())

    drive(
        scheduler,
        cluster,
        store,
        cluster,
        observe=observe,
        keep_alive=lambda: cluster.num_arrivals > 0,
    )
    assert all(status.state.is_terminal for status in scheduler.statuses())
    assert PendingReason.EXCLUDED_BY_LABELS in reasons


def test_a_gang_on_a_node_with_other_labels_is_refused_by_the_cluster() -> None:
    node = make_node("n", ("A100", 40 * GIB), labels={"zone": "a"})
    cluster = SimCluster([NodeJoined(at=0.0, node=node)])
    cluster.wait(None)
    spec = make_spec("r", labels={"zone": "b"})
    share = Share(node_id=node.node_id, card=0, memory_bytes=40 * GIB)
    start = StartGang(
        attempt=AttemptId(run_id=spec.run_id, number=1),
        spec=spec,
        batch=BatchPlan(effective_batch=8, world_size=1, micro_batch=8),
        placement=Placement((share,)),
        checkpoints=(),
    )
    with pytest.raises(ClusterError, match="other labels"):
        cluster.apply(start)
