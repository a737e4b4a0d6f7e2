"""Nodes of a joined Ray: cards are asked for on each, losses are told, tokens are demanded."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.ray import RayCluster
from orchestrator.cluster.session import joined_ray, token_file, use_token
from orchestrator.errors import ClusterError
from orchestrator.messages import GangFailed, NodeJoined, NodeLost
from orchestrator.types import AttemptId, Card, Cause, Placement, Share
from tests.ray.drills import Drill
from tests.ray.parts import FakeParts

pytestmark = pytest.mark.ray

GIB = 1024**3
QUICK = {  # so that a lost node is noticed within seconds
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
}


def three_cards() -> tuple[Card, ...]:
    """Cards of different size in one host, as its driver would list them."""
    return tuple(
        Card(index=index, name=f"Card {index}", memory_bytes=(index + 1) * GIB)
        for index in range(3)
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without GPUs; tests add nodes."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    for name, value in QUICK.items():
        patch.setenv(name, value)
    use_token(token_file(tmp_path_factory.mktemp("home")))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()
    patch.undo()


@pytest.fixture
def drill(started: Any, tmp_path: Path) -> Iterator[Drill]:
    with joined_ray(started.address):
        cluster = RayCluster(FakeParts(), list_cards=three_cards)
        yield Drill(cluster, tmp_path)
        cluster.close()


def joined(drill: Drill) -> list[NodeJoined]:
    return [event for event in drill.seen if isinstance(event, NodeJoined)]


def test_a_node_joins_with_its_cards_runs_gangs_where_they_belong_and_is_lost_with_them(
    drill: Drill, started: Any
) -> None:
    host = socket.gethostname()
    assert (drill.node.node_id, drill.node.cards) == (host, ())
    added = started.add_node(num_cpus=1, num_gpus=3, labels={"zone": "a"})
    drill.wait(lambda: len(joined(drill)) == 2)
    node = joined(drill)[1].node
    assert (node.labels["zone"], drill.node.labels.get("zone")) == ("a", None)
    assert node.cards == three_cards()
    assert node.node_id.startswith(f"{host}-")
    attempts: list[AttemptId] = []
    for card in (2, 0, 1, 0):  # a worker that Ray put on another card would fail to start
        order = drill.order(f"card{card}-{len(attempts)}", card=None)
        half = node.cards[card].memory_bytes // 2
        share = Share(node_id=node.node_id, card=card, memory_bytes=half)
        drill.cluster.apply(drill.moved(order, Placement((share,))))
        attempts.append(order.attempt)
    for attempt in attempts:
        drill.until_started(attempt)
    at = drill.cluster.now()
    started.remove_node(added, allow_graceful=False)
    for attempt in attempts:
        failed = drill.end(attempt)
        assert isinstance(failed, GangFailed)
        assert failed.cause in (Cause.NODE_LOST, Cause.WORKER_LOST)
    drill.wait(lambda: NodeLost in map(type, drill.seen))
    assert drill.cluster.now() - at < 15.0
    lost = next(event for event in drill.seen if isinstance(event, NodeLost))
    assert lost.node_id == node.node_id


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_ray_with_a_token_lets_nobody_in_without_it(
    started: Any, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(ClusterError) as info, joined_ray(started.address):
        pass
    assert (info.value.code, info.value.exit_code) == ("E4003", 6)
    assert any("RAY_AUTH_TOKEN" in line for line in info.value.fix)
