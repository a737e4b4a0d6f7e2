"""Asks Ray's autoscaler for nodes for as long as a driver wants them, and lets go when none does.

What is asked of the autoscaler stays asked until somebody asks for something else. A driver that is
killed could not do that, and its nodes would be paid for until a person notices. So it is asked by
an actor that outlives the driver, and has to be told again and again.
"""

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import ray
from ray.autoscaler.sdk import request_resources

from orchestrator.types import Seconds

__all__ = ["LEASE_SECONDS", "Keeper", "Request", "keeper"]

LEASE_SECONDS: Seconds = 60.0  # a driver that is restarted within this finds its nodes
_NAME = "orchestrator-node-keeper"

Request: TypeAlias = tuple[dict[str, float], dict[str, str]]  # resources of a node, its labels


class Keeper:
    """The actor. It stays on the head node, takes no CPU, and ends itself.

    Args:
        lease_seconds: Without a word for so long, nothing is asked for any more.
    """

    def __init__(self, lease_seconds: Seconds) -> None:
        self._lease = lease_seconds
        self._heard_at = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def hold(self, requests: Sequence[Request]) -> None:
        """Ask for exactly these nodes, and for none besides."""
        with self._lock:
            self._heard_at = time.monotonic()
            _ask(requests)

    def release(self) -> None:
        """Ask for nothing, and end."""
        with self._lock:
            _ask(())
        threading.Timer(0.5, _leave).start()  # after this call was answered

    def _watch(self) -> None:
        while True:
            time.sleep(self._lease / 4)
            with self._lock:
                if time.monotonic() - self._heard_at > self._lease:
                    _ask(())
                    _leave()


def _ask(requests: Sequence[Request]) -> None:
    request_resources(
        bundles=[resources for resources, _ in requests],
        bundle_label_selectors=[labels for _, labels in requests],
    )


def _leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def keeper(lease_seconds: Seconds = LEASE_SECONDS) -> Any:
    """The keeper of this Ray: the one that a driver before us left, or a new one, on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(Keeper)
        .options(
            name=_NAME,
            namespace="orchestrator",
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            num_gpus=0,
            max_restarts=0,
            max_concurrency=2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(lease_seconds)
    )
