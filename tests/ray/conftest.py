"""One Ray of our own a module, with two emulated cards; a fresh RayCluster a test."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.cluster.pulse import Patience
from orchestrator.cluster.ray import RayCluster
from orchestrator.cluster.session import local_ray
from orchestrator.types import Card
from tests.ray.drills import Drill
from tests.ray.parts import EmulatedCards, FakeParts


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with local_ray(num_cpus=2, cards=EmulatedCards, home=home):
        yield home


def no_real_cards() -> Sequence[Card]:
    return ()


@pytest.fixture
def patience() -> Patience:
    """How long silence is taken for work; a module may have another."""
    return Patience()


@pytest.fixture
def cluster(session: Path, patience: Patience) -> Iterator[RayCluster]:
    made = RayCluster(
        FakeParts(), list_cards=no_real_cards, local_cards=EmulatedCards, patience=patience
    )
    yield made
    made.close()


@pytest.fixture
def drill(cluster: RayCluster, tmp_path: Path) -> Drill:
    return Drill(cluster, tmp_path)
