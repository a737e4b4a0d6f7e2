"""A thousand projects of five runs in one store: asked, listed and driven to their end."""

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jobs.bench_load import specs
from orchestrator.client.access import Client
from orchestrator.cluster.sim import SimCluster
from orchestrator.console.queue import show_queue
from orchestrator.console.read import list_runs
from orchestrator.driver import drive
from orchestrator.messages import NodeJoined
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Node, NodeId, RunSpec, RunState
from tests.cli.stored import CARDS

pytestmark = pytest.mark.slow

PROJECTS, FOLDS = 1000, 5
MIB = 1024**2


def computing(work: Callable[[], object]) -> float:
    """Seconds of computing: the machine may be busy with other things."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def quick(spec: RunSpec) -> RunSpec:
    return replace(spec, settings=replace(spec.settings, epochs=1))


def test_five_thousand_runs_are_asked_listed_and_each_is_trained_once(tmp_path: Path) -> None:
    client = Client(tmp_path)
    asked = [[quick(s) for s in specs(tmp_path, number, FOLDS)] for number in range(PROJECTS)]
    took = sorted(computing(lambda own=own: client.submit(own)) for own in asked)  # type: ignore[misc] # called at once
    assert took[int(0.99 * PROJECTS)] < 0.050
    with contextlib.redirect_stdout(io.StringIO()) as out:
        queues = [computing(lambda: show_queue(client, only=None, as_json=False)) for _ in range(5)]
    assert min(queues) < 0.200
    assert len(out.getvalue().splitlines()) == 5 * (PROJECTS * FOLDS + 1)
    node = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)
    cluster = SimCluster([NodeJoined(at=0.0, node=node)])
    scheduler = Scheduler()
    with client.store() as store, store.drive("load"):
        drive(scheduler, cluster, store, cluster)
        assert psutil.Process().memory_info().rss < 300 * MIB
        for own in asked[::100]:
            for spec in own:
                assert [row.epoch for row in store.progress(spec.run_id)] == [1]
    with contextlib.redirect_stdout(io.StringIO()):
        lists = [
            computing(lambda: list_runs(client, as_json=False, project=None, limit=None))
            for _ in range(5)
        ]
    assert min(lists) < 0.200
    runs = client.runs()
    assert len(runs) == PROJECTS * FOLDS
    assert {(run.state, run.attempts) for run in runs} == {(RunState.SUCCEEDED, 1)}
