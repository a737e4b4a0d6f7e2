"""A Ray of our own starts without what nobody asks; a Ray that others start is as it was."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.cluster import dashboard_agent as stand_in
from orchestrator.cluster.few_processes import few_processes

PRIVATE: Any = ray._private


def names() -> tuple[object, ...]:
    return (
        PRIVATE.parameter.RayParams,
        PRIVATE.utils.get_dashboard_dependency_error,
        PRIVATE.node.Node.start_api_server,
        PRIVATE.services.start_ray_process,
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


def test_a_node_that_is_started_inside_has_a_small_process_for_the_dashboards_agent() -> None:
    started: list[list[str]] = []
    services: Any = PRIVATE.services
    start, services.start_ray_process = services.start_ray_process, started.append
    try:
        with few_processes():
            services.start_ray_process(
                [
                    "raylet",
                    "--session_dir=/home/a session",
                    "--dashboard_agent_command=python agent.py",
                    "--runtime_env_agent_command=python main.py",
                ]
            )
            services.start_ray_process(["gcs_server", "--log_dir=/tmp/logs"])
    finally:
        services.start_ray_process = start
    (raylet, folder, agent, other), gcs = started
    assert (raylet, folder) == ("raylet", "--session_dir=/home/a session")
    assert other == "--runtime_env_agent_command=python main.py"
    option, _, command = agent.partition("=")
    words = shlex.split(command)
    assert option == "--dashboard_agent_command"
    assert words[3:5] == [stand_in.__file__, "/home/a session"]
    assert sorted(words[5:]) == [
        "dashboard_agent_listen_port",
        "metrics_agent_port",
        "metrics_export_port",
    ]
    assert gcs == ["gcs_server", "--log_dir=/tmp/logs"]


def test_what_stands_for_the_agent_tells_no_ports_and_ends_with_the_node(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", stand_in.__file__, str(tmp_path), "a_port", "another_port"],
        stdin=subprocess.PIPE,
        env={"RAY_NODE_ID": "ab12"},
    ) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
    told = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert told == {"a_port_ab12": "-1", "another_port_ab12": "-1"}
