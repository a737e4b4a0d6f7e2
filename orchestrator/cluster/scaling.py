"""A Ray whose autoscaler brings nodes: offers their types, and asks for what is wanted of them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from orchestrator.cluster.disks import TimedCluster
from orchestrator.cluster.keeper import LEASE_SECONDS, Request, keeper
from orchestrator.errors import ClusterError
from orchestrator.messages import Action, AskNodes, Event, NodeTypesOffered
from orchestrator.types import NodeType, Seconds

__all__ = ["ScaledCluster", "requests_for"]

_RENEWALS = 6  # within a lease
_FAREWELL_SECONDS: Seconds = 10.0


def requests_for(
    counts: Sequence[tuple[str, int]], types: Mapping[str, NodeType]
) -> tuple[Request, ...]:
    """What Ray is asked for: one bundle a node, that takes all its cards and names its labels.

    The autoscaler sees to it that the nodes there are, busy or not, have all bundles at once; so
    numbers count the nodes that are there.
    """
    requests: list[Request] = []
    for name, count in counts:
        kind = types[name]
        resources: dict[str, float] = {"GPU": kind.num_cards} if kind.num_cards else {"CPU": 1}
        requests += [(resources, dict(kind.labels))] * count
    return tuple(requests)


class ScaledCluster:
    """Implements Cluster and Clock around a `RayCluster`: what concerns gangs is passed on.

    Args:
        inner: Where gangs run.
        offer: The types of nodes that the autoscaler has, each with labels of its own.
        lease_seconds: For how long nodes are kept for a driver that is gone.

    Raises:
        ClusterError: E4020, this Ray has no autoscaler that understands labels.
    """

    def __init__(
        self,
        inner: TimedCluster,
        offer: NodeTypesOffered,
        *,
        lease_seconds: Seconds = LEASE_SECONDS,
    ) -> None:
        _demand_autoscaler()
        self._inner = inner
        self._offer: NodeTypesOffered | None = offer
        self._types = {each.name: each for each in offer.node_types}
        self._lease = lease_seconds
        self._requests: tuple[Request, ...] = ()
        self._keeper: Any = None
        self._answer: Any = None
        self._renew_at: Seconds = 0.0

    def now(self) -> Seconds:
        """Seconds since the Unix epoch."""
        return self._inner.now()

    def apply(self, action: Action) -> None:
        """Begin to carry out an action; what comes of nodes that are asked for are new nodes."""
        if not isinstance(action, AskNodes):
            self._inner.apply(action)
            return
        self._requests = requests_for(action.counts, self._types)
        self._tell()

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """As the cluster inside; the first call says what may be asked for."""
        if self._offer is not None:
            offer, self._offer = self._offer, None
            return (replace(offer, at=self.now()),)
        if self._keeper is not None and self.now() >= self._renew_at:
            self._renew()
        return self._inner.wait(until)

    def close(self) -> None:
        """Ask for no node any more."""
        if self._keeper is not None:
            with suppress(ray.exceptions.RayError):  # it ends by itself when its lease is over
                ray.get(self._keeper.release.remote(), timeout=_FAREWELL_SECONDS)

    def _tell(self) -> None:
        if self._keeper is None:
            self._keeper = keeper(self._lease)
        self._answer = self._keeper.hold.remote(self._requests)
        self._renew_at = self.now() + self._lease / _RENEWALS

    def _renew(self) -> None:
        """Say again what is wanted; an actor that died is replaced."""
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            try:
                ray.get(self._answer)
            except ray.exceptions.RayTaskError:
                pass  # the autoscaler did not answer in time; it is asked again now
            except ray.exceptions.RayError:
                self._keeper = None
        if ready or self._keeper is None:
            self._tell()
        else:
            self._renew_at = self.now() + self._lease / _RENEWALS


def _demand_autoscaler() -> None:
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        raise ClusterError(
            "this Ray has no autoscaler that can bring nodes by their labels",
            code="E4020",
            why=("cluster.node_types offers nodes, and only Ray's autoscaler v2 can bring them",),
            fix=(
                "start the cluster with `ray up` or KubeRay, and RAY_enable_autoscaler_v2=1 there",
                "or leave cluster.node_types out: the nodes that are there are used as they are",
            ),
        )
