"""A Ray of our own starts without what nobody asks; a Ray that others start is as it was."""

from typing import Any

import pytest
import ray

from orchestrator.cluster.few_processes import few_processes

PRIVATE: Any = ray._private


def names() -> tuple[object, ...]:
    return (
        PRIVATE.parameter.RayParams,
        PRIVATE.utils.get_dashboard_dependency_error,
        PRIVATE.node.Node.start_api_server,
    )


def test_a_ray_that_is_started_inside_has_neither_log_monitor_nor_autoscaler_nor_dashboard() -> (
    None
):
    with few_processes():
        params = PRIVATE.parameter.RayParams(include_dashboard=False)
        assert params.no_monitor
        assert params.include_log_monitor is False
        assert PRIVATE.utils.get_dashboard_dependency_error() is not None
        assert PRIVATE.node.Node.start_api_server(object(), include_dashboard=False) is None


def fail() -> None:
    with few_processes():
        raise ValueError("no Ray")


def test_what_was_exchanged_is_put_back_also_when_ray_does_not_start() -> None:
    before = names()
    with pytest.raises(ValueError, match="no Ray"):
        fail()
    assert names() == before
