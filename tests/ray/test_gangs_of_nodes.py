"""Gangs over several Ray nodes: nodes come and go, and have to see and run the same."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.ray import RayCluster
from orchestrator.cluster.session import joined_ray, token_file, use_token
from orchestrator.messages import GangFinished, NodeJoined, NodeLost, ProgressReported
from orchestrator.types import Card, Cause, CheckpointRef, Node
from tests.ray.drills import Drill
from tests.ray.parts import FakeParts
from tests.ray.test_several_nodes import QUICK

pytestmark = pytest.mark.ray

GIB = 1024**3
CARDS_OF_NODE = "ORC_TEST_NODE_CARDS"


def cards_of_node() -> tuple[Card, ...]:
    """The cards that the node was started with, as a driver of cards would list them."""
    told = json.loads(os.environ.get(CARDS_OF_NODE, "[]"))
    return tuple(Card(**values) for values in told)


class Nodes:
    """A head without cards, and nodes with emulated ones."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        self.ray = Cluster(initialize_head=True, head_node_args=head)

    def add(self, *sizes: int, **variables: str) -> Any:
        """Start a node with cards of so many GiB."""
        cards = [
            Card(index=index, name=f"Card {size}", memory_bytes=size * GIB, is_emulated=True)
            for index, size in enumerate(sizes)
        ]
        told = json.dumps([asdict(card) for card in cards])
        return self.ray.add_node(
            num_cpus=1, num_gpus=len(cards), env_vars={CARDS_OF_NODE: told, **variables}
        )

    def remove(self, node: Any) -> None:
        """End a node's processes without a word."""
        self.ray.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    patch = pytest.MonkeyPatch()
    for name, value in QUICK.items():
        patch.setenv(name, value)
    use_token(token_file(tmp_path_factory.mktemp("home")))
    made = Nodes()
    yield made
    made.ray.shutdown()
    patch.undo()


@pytest.fixture
def drill(nodes: Nodes, tmp_path: Path) -> Iterator[Drill]:
    with joined_ray(nodes.ray.address):
        cluster = RayCluster(FakeParts(), list_cards=cards_of_node)
        yield Drill(cluster, tmp_path)
        cluster.close()


def with_cards(drill: Drill, number: int) -> list[Node]:
    """The nodes with cards, as soon as there are so many of them."""

    def joined() -> list[Node]:
        lost = {event.node_id for event in drill.seen if isinstance(event, NodeLost)}
        found = [event.node for event in drill.seen if isinstance(event, NodeJoined)]
        return [node for node in found if node.cards and node.node_id not in lost]

    drill.wait(lambda: len(joined()) == number)
    return joined()


def all_gone(pids: Sequence[int], seconds: float) -> bool:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_a_gang_over_two_nodes_loses_one_and_goes_on_whole_on_another(
    drill: Drill, nodes: Nodes
) -> None:
    first, second = nodes.add(6), nodes.add(8)
    small, large = sorted(with_cards(drill, 2), key=lambda node: node.cards[0].memory_bytes)
    order = drill.pair("spread", places=((small, 0), (large, 0)), epochs=200)
    drill.cluster.apply(order)
    drill.wait(lambda: any(isinstance(event, ProgressReported) for event in drill.seen))
    pids = drill.until_started(order.attempt).pids
    third = nodes.add(16)
    nodes.remove(second)
    failed = drill.failed(order.attempt)
    assert failed.cause in (Cause.NODE_LOST, Cause.WORKER_LOST), failed.detail
    assert all_gone(pids, 15.0)
    drill.wait(lambda: any(isinstance(event, NodeLost) for event in drill.seen))
    small, new = sorted(with_cards(drill, 2), key=lambda node: node.cards[0].memory_bytes)
    refs: list[CheckpointRef] = [
        event.checkpoint
        for event in drill.seen
        if isinstance(event, ProgressReported) and event.checkpoint
    ]
    epochs = refs[-1].epoch + 1
    again = drill.pair("spread", places=((new, 0), (small, 0)), epochs=epochs, number=2)
    at = drill.cluster.now()
    drill.cluster.apply(drill.resumed(again, refs))
    drill.until_started(again.attempt)
    assert drill.cluster.now() - at < 15.0
    assert isinstance(drill.end(again.attempt), GangFinished)
    nodes.remove(first)
    nodes.remove(third)


def test_nodes_that_see_or_run_other_things_are_told_before_anything_trains(
    drill: Drill, nodes: Nodes, tmp_path: Path
) -> None:
    wheel = tmp_path / "wheels" / "torch-1.13.1.dist-info"
    wheel.mkdir(parents=True)
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\n")
    paths = [str(wheel.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    first, second = nodes.add(6), nodes.add(8, PYTHONPATH=os.pathsep.join(paths))
    small, large = sorted(with_cards(drill, 2), key=lambda node: node.cards[0].memory_bytes)

    unlike = drill.pair("unlike", places=((small, 0), (large, 0)))
    drill.cluster.apply(unlike)
    failed = drill.failed(unlike.attempt)
    assert (failed.cause, failed.code) == (Cause.USER_ERROR, "E4121")
    assert f"1.13.1 on {large.node_id}" in failed.detail
    assert "python" not in failed.detail

    with (tmp_path / "data.yaml").open("w") as file:
        mine = f"/proc/self/fd/{file.fileno()}"  # what is there, is so for this process alone
        order = drill.pair("unseen", places=((small, 0), (large, 0)))
        settings = replace(order.spec.settings, data=mine)
        order = replace(order, spec=replace(order.spec, settings=settings))
        drill.cluster.apply(order)
        failed = drill.failed(order.attempt)
    assert (failed.cause, failed.code) == (Cause.START_FAILED, "E4120")
    assert f"{small.node_id} does not have {mine}" in failed.detail
    assert drill.started(order.attempt) is None
    nodes.remove(first)
    nodes.remove(second)
