"""The simulated cluster keeps the Cluster contract."""

import pytest

from orchestrator.cluster.sim import SimCluster
from orchestrator.messages import NodeJoined
from tests.contracts.cluster import ClusterContract
from tests.strategies import GIB, make_node


class TestSimCluster(ClusterContract):
    limit_seconds = 100_000.0

    @pytest.fixture
    def cluster(self) -> SimCluster:
        return SimCluster([NodeJoined(at=0.0, node=make_node("a", ("A100", 40 * GIB)))])
