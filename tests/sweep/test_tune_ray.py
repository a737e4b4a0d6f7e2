"""People's own Tuner: its trials hold nothing, its searcher suggests what fits, its runs train."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.stub_sweep import service_command
from orchestrator.client.access import Client
from orchestrator.sweep.service import Service
from orchestrator.types import RunState

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A store whose driver has a Ray of its own, beside the one of Tune."""
    from orchestrator.cluster.session import local_ray

    client = Client(tmp_path_factory.mktemp("home"))
    with (
        Service(client, service_command(client.home), print),
        local_ray(num_cpus=2, cards=(), home=tmp_path_factory.mktemp("tune")),
    ):
        yield client


def config(home: Path) -> dict[str, Any]:
    project = {
        "name": "stub",
        "model": "fake",
        "data": "none",
        "trainer": "fake",
        "epochs": 3,
        "epoch_seconds": 2.0,
        "best_lr0": 0.01,
        "memory": {"predict": False},
    }
    return {"runs": str(home / "runs"), "projects": [project]}


def test_tune_searches_what_fits_and_its_trials_are_runs(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from orchestrator import sweep

    space = {
        "lr0": tune.loguniform(1e-4, 1.0),
        "resources.memory": tune.choice(["1GiB", "64GiB"]),
    }
    inner = OptunaSearch(space, metric="score", mode="max", seed=1)
    searcher = sweep.constrained(inner, config(client.home), home=client.home)
    tuner = tune.Tuner(
        sweep.trainable(config(client.home), home=client.home),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=ASHAScheduler(metric="score", mode="max", grace_period=1, max_t=3),
            num_samples=5,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    grid = tuner.fit()
    assert not grid.errors
    assert len(grid) == 5
    assert searcher.num_refused > 0
    assert searcher.num_suggested == 5 + searcher.num_refused
    runs = {run.id: run for run in client.runs()}
    assert len(runs) == 5
    for result in grid:
        assert result.config["resources.memory"] == "1GiB"
        run = runs.pop(result.metrics["run_id"])
        assert [row["epoch"] for _, row in result.metrics_dataframe.iterrows()] == list(
            range(1, result.metrics["epoch"] + 1)
        )
        is_whole = result.metrics["epoch"] == 3
        ended = client.wait(run.id, timeout=60.0)  # Tune's trial ends with its last report
        assert ended.state is (RunState.SUCCEEDED if is_whole else RunState.CANCELLED)
    assert any(result.metrics["epoch"] < 3 for result in grid)
    assert any(result.metrics["epoch"] == 3 for result in grid)
