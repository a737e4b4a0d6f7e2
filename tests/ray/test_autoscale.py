"""Ray's own autoscaler brings what waiting runs need, and lets it go; whoever asked may be dead."""

from collections.abc import Callable
from pathlib import Path
from threading import Event as Pause

import pytest

from jobs.autoscaled_ray import autoscaled_ray, emulated_type
from jobs.bench_autoscale import BEST, Timeline, bench
from orchestrator.client.access import Client
from orchestrator.cluster.session import joined_ray, token_file, use_token
from orchestrator.types import RunState

pytestmark = pytest.mark.ray

LIMIT_SECONDS = 90.0
PAUSE_SECONDS = 0.5


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Timeline, Path]:
    home = tmp_path_factory.mktemp("home")
    return bench(home, epochs=4, epoch_seconds=0.5, idle_seconds=4.0), home


def test_exactly_the_best_nodes_come_and_all_go_again(seen: tuple[Timeline, Path]) -> None:
    timeline, _ = seen
    asked = [row["detail"] for row in timeline.rows if row["what"] == "asked"]
    assert (asked[0], asked[-1]) == ("1 x big, 3 x small", "0")
    assert dict(timeline.came) == BEST
    assert timeline.there == {}
    assert max(row["nodes"] for row in timeline.rows) == sum(BEST.values())


def test_every_run_succeeds_on_the_node_that_was_asked_for_it(seen: tuple[Timeline, Path]) -> None:
    _, home = seen
    runs = Client(home).runs()
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
    assert {run.attempts for run in runs} == {1}
    cards = {run.id: run.gpu for run in runs}
    small = [run_id for run_id, card in cards.items() if "4090" in card]
    assert sorted(small) == [f"run-{n}-{gib}gib" for n, gib in enumerate((10, 10, 20, 20))]


def wait_until(done: Callable[[], bool]) -> None:
    pause, left = Pause(), LIMIT_SECONDS
    while not done():
        assert left > 0, "not in time"
        pause.wait(PAUSE_SECONDS)
        left -= PAUSE_SECONDS


def test_nodes_are_let_go_when_the_driver_that_asked_says_nothing_any_more(tmp_path: Path) -> None:
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    from orchestrator.cluster.keeper import keeper

    use_token(token_file(tmp_path))
    types = {"small": emulated_type("small", "RTX-4090", 24, most=2)}
    with autoscaled_ray(types, idle_seconds=2.0) as address, joined_ray(address):
        client = ray._raylet.GcsClient(address=address)

        def num_asked() -> int:
            found = get_cluster_resource_state(client).cluster_resource_constraints
            return sum(r.count for constraint in found for r in constraint.resource_requests)

        def num_nodes() -> int:
            return sum(node["Alive"] for node in ray.nodes())

        actor = keeper(lease_seconds=8.0)
        ray.get(actor.hold.remote([({"GPU": 1}, {"orc.node-type": "small"})]))
        assert num_asked() == 1
        wait_until(lambda: num_nodes() == 2)
        wait_until(lambda: num_asked() == 0)
        wait_until(lambda: num_nodes() == 1)
        with pytest.raises(ray.exceptions.RayError):
            ray.get(actor.hold.remote([]), timeout=30)
