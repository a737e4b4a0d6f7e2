"""What gangs count of a node's CPUs and RAM is in Ray's books too, while they are there."""

import pytest
import ray

from orchestrator.messages import KillGang
from tests.ray.drills import Drill

pytestmark = pytest.mark.ray

MIB = 1024**2


def free() -> tuple[float, float]:
    left = ray.available_resources()
    return left.get("CPU", 0.0), left["memory"]


def test_a_node_tells_its_ram(drill: Drill) -> None:
    total = ray.cluster_resources()["memory"]
    assert total - 256 * MIB < drill.node.host_bytes <= total


@pytest.mark.parametrize("card", [0, None])
def test_ray_knows_what_a_gang_counts_and_gets_it_back(drill: Drill, card: int | None) -> None:
    cpus, ram = free()
    order = drill.order("counted", card=card, num_cpus=1.0, host_bytes=64 * MIB)
    drill.cluster.apply(order)
    drill.until_started(order.attempt)
    drill.wait(lambda: free() == (cpus - 1.0, ram - 64 * MIB))
    drill.cluster.apply(KillGang(attempt=order.attempt))
    drill.end(order.attempt)
    drill.wait(lambda: free() == (cpus, ram))


def test_what_is_not_counted_is_not_booked(drill: Drill) -> None:
    before = free()
    attempt = drill.start("plain")
    drill.until_started(attempt)
    assert free() == before
    drill.cluster.apply(KillGang(attempt=attempt))
    drill.end(attempt)
