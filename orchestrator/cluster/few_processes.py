"""A Ray of our own without those of its processes that serve what we do not use."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from orchestrator.cluster import dashboard_agent, forked

__all__ = ["few_processes"]

# What runs print goes into files of our own, and a Ray of one node has nothing to scale. Workers
# are started by a script that does not import Ray in a process of its own first.
_ASKED = {
    "no_monitor": True,
    "include_log_monitor": False,
    "setup_worker_path": forked.__file__,
}
_FOLDER = "--session_dir="  # of Ray's node: where its agents tell their ports
_AGENT = "--dashboard_agent_command="


@contextmanager
def few_processes() -> Iterator[None]:
    """While a Ray is started here: leave out log monitor, autoscaler, dashboard and its agent.

    They take 4 s of a processor, and whoever starts Ray waits for the dashboard to be imported. A
    small process stands for the agent, without which no node of Ray starts. The other agent stays:
    a node ends itself where somebody's task, such as a trial of Ray Tune, wants an environment of
    its own and nobody makes it.
    """
    import ray

    # No public door: `ray.init` takes none of this.
    parameter: Any = ray._private.parameter
    utils: Any = ray._private.utils
    node: Any = ray._private.node.Node
    services: Any = ray._private.services
    with ExitStack() as stack:
        _exchange(stack, parameter, "RayParams", partial(parameter.RayParams, **_ASKED))
        _exchange(stack, utils, "get_dashboard_dependency_error", _missing)
        _exchange(stack, node, "start_api_server", _nothing)
        start = partial(_without_agent, services.start_ray_process)
        _exchange(stack, services, "start_ray_process", start)
        yield


def _exchange(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _without_agent(start: Any, command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
    """Start a process of Ray: where it is a node, with the stand-in for the dashboard's agent."""
    folder = [word.removeprefix(_FOLDER) for word in command if word.startswith(_FOLDER)]
    if folder:
        words = [sys.executable, "-I", "-S", dashboard_agent.__file__, folder[0], *_services()]
        told = _AGENT + subprocess.list2cmdline(words)
        command = [told if word.startswith(_AGENT) else word for word in command]
    return start(command, *args, **kwargs)


def _services() -> list[str]:
    """What Ray calls the services of the dashboard's agent."""
    from ray import _raylet as names

    return [
        str(getattr(names, name))
        for name in (
            "DASHBOARD_AGENT_LISTEN_PORT_NAME",
            "METRICS_AGENT_PORT_NAME",
            "METRICS_EXPORT_PORT_NAME",
        )
    ]


def _missing() -> ImportError:
    return ImportError("the dashboard is left out")


def _nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs
