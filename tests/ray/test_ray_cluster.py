"""The cluster contract on a real Ray."""

import pytest

from tests.contracts.cluster import ClusterContract

pytestmark = pytest.mark.ray


class TestRayCluster(ClusterContract):
    """Every law of the contract, with real processes on emulated cards."""

    @pytest.fixture
    def cluster(self, cluster: object) -> object:
        return cluster
