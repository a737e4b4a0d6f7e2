"""Ray ends a worker that eats the host's memory, and the attempt says so."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.ray import RayCluster
from orchestrator.cluster.session import local_ray
from orchestrator.types import Cause
from tests.ray.conftest import no_real_cards
from tests.ray.drills import Drill
from tests.ray.parts import EmulatedCards, FakeParts

pytestmark = pytest.mark.ray

GIB = 1024**3


@pytest.fixture
def tight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A Ray that ends somebody when two more GiB of this machine are in use."""
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    if memory.available < 6 * GIB:
        pytest.skip("less than 6 GiB of memory are free")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + 2 * GIB) / memory.total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with local_ray(num_cpus=1, cards=EmulatedCards, home=tmp_path):
        cluster = RayCluster(FakeParts(), list_cards=no_real_cards, local_cards=EmulatedCards)
        yield cluster
        cluster.close()


def test_a_worker_that_takes_the_host_s_memory_is_told_as_such(
    tight: RayCluster, tmp_path: Path
) -> None:
    drill = Drill(tight, tmp_path)
    failed = drill.failed(drill.start("greedy", trainer="greedy"))
    assert failed.cause is Cause.HOST_OUT_OF_MEMORY
    assert failed.detail
