"""A Ray of this machine whose autoscaler brings nodes, each a few processes; for benches and tests.

It is Ray's own autoscaler (v2) and Ray's own provider for tests, which starts every node as
processes on this machine. Ports and folder are its own, and a guard ends by process id what was
started here, however this process ends: `ray stop`, and Ray's class for such clusters, would end
every Ray of the machine.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from orchestrator.cluster.session import guarded
from orchestrator.errors import ClusterError

__all__ = ["OneMachine", "autoscaled_ray", "emulated_type"]

_STORE_BYTES = 80 * 1024 * 1024
_TAIL = 12  # lines of Ray's that are told where it did not start
_LISTS = (  # keys of the configuration that have to be there
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


class OneMachine(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray ships no types
    """Ray's provider for tests under a name of ours: Ray's own set-up of it is not in the wheel."""


def emulated_type(name: str, card: str, gib: int, *, most: int, cards: int = 1) -> dict[str, Any]:
    """A node type of the autoscaler's configuration, with cards that are emulated.

    Args:
        name: Of the type.
        card: A name of the catalogue, with dashes.
        gib: Memory of each card, rounded.
        most: How many nodes may be.
        cards: On each.
    """
    return {
        "node_config": {},
        "resources": {"CPU": 1, "GPU": cards, "object_store_memory": _STORE_BYTES},
        "labels": {
            "orc.node-type": name,
            "orc.card": card,
            "orc.card-gib": str(gib),
            "orc.emulated": "true",
        },
        "min_workers": 0,
        "max_workers": most,
    }


@contextmanager
def autoscaled_ray(
    types: Mapping[str, Mapping[str, Any]],
    *,
    idle_seconds: float = 5.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A head without cards, and an autoscaler with these node types; yields the address.

    Args:
        types: As `emulated_type` makes them.
        idle_seconds: Nodes that are idle for so long are let go.
        environment: For Ray's processes, besides our own.

    Raises:
        ClusterError: Ray did not start; says what it wrote.
    """
    with guarded() as folder:
        yield _start(types, folder, idle_seconds, environment or {})


def _start(
    types: Mapping[str, Mapping[str, Any]],
    folder: Path,
    idle_seconds: float,
    environment: Mapping[str, str],
) -> str:
    ports = _free_ports(5)
    address = f"{get_node_ip_address()}:{ports[0]}"  # where Ray looks for nodes of this machine
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(_config(types, address, idle_seconds)))
    words = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head"),
        *(f"--port={ports[0]}", f"--autoscaling-config={path}"),
        *("--num-cpus=1", "--num-gpus=0", f"--object-store-memory={_STORE_BYTES}"),
        *("--include-dashboard=false", f"--ray-client-server-port={ports[1]}"),
        *(f"--dashboard-agent-listen-port={ports[2]}", f"--metrics-export-port={ports[3]}"),
        *(f"--dashboard-agent-grpc-port={ports[4]}", f"--temp-dir={folder}"),
        "--disable-usage-stats",
        *("--min-worker-port=0", "--max-worker-port=0"),  # free ones: other Rays may be here
    ]
    own = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    given = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    path = folder / "start.log"
    with path.open("wb") as log:
        done = subprocess.run(  # noqa: S603 - Ray's own command
            words,
            env={**given, **environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        told = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        raise ClusterError("Ray did not start", code="E4001", why=tuple(told[-_TAIL:]))
    return address


def _config(
    types: Mapping[str, Mapping[str, Any]], address: str, idle_seconds: float
) -> dict[str, Any]:
    return {
        "cluster_name": "one-machine",
        "max_workers": sum(int(kind["max_workers"]) for kind in types.values()),
        "upscaling_speed": 100,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            "type": "external",
            "module": "jobs.autoscaled_ray.OneMachine",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": {
            **types,
            "ray.head.default": {"node_config": {}, "resources": {"CPU": 1}, "max_workers": 0},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _LISTS},
    }


def _free_ports(num: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
