"""A Ray of our own without those of its processes that serve what we do not use."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from orchestrator.cluster import forked

__all__ = ["few_processes"]

# What runs print goes into files of our own, and a Ray of one node has nothing to scale. Workers
# are started by a script that does not import Ray in a process of its own first.
_ASKED = {
    "no_monitor": True,
    "include_log_monitor": False,
    "setup_worker_path": forked.__file__,
}


@contextmanager
def few_processes() -> Iterator[None]:
    """While a Ray is started here: leave out its log monitor, autoscaler and dashboard.

    They take 3 s of a processor, and whoever starts Ray waits for the dashboard to be imported.
    The node's agent is the one of an installation without the dashboard: the other wants a port
    that every Ray of a machine wants, and tries for three seconds before it takes another.
    """
    import ray

    # No public door: `ray.init` takes none of this.
    parameter: Any = ray._private.parameter
    utils: Any = ray._private.utils
    node: Any = ray._private.node.Node
    with ExitStack() as stack:
        _exchange(stack, parameter, "RayParams", partial(parameter.RayParams, **_ASKED))
        _exchange(stack, utils, "get_dashboard_dependency_error", _missing)
        _exchange(stack, node, "start_api_server", _nothing)
        yield


def _exchange(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _missing() -> ImportError:
    return ImportError("the dashboard is left out")


def _nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs
