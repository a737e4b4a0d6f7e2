"""In a job of a Ray: its cluster is meant, runs lie beside the store, data below ORC_DATA_ROOT."""

from pathlib import Path

import pytest

from jobs.inside import place_runs, settled
from orchestrator.config.load import load_config

CONFIG = """\
projects:
  - {name: cells, trainer: fake, model: fake, data: ../cells}
"""


@pytest.fixture
def uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Ray unpacked: a config in a folder, and no data."""
    folder = tmp_path / "unpacked" / "configs"
    folder.mkdir(parents=True)
    (folder / "exp.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "unpacked")
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORC_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    return folder / "exp.yaml"


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["epochs=3"], ["cluster.address=auto"]),
        (["cluster.address=10.0.0.5:6379"], []),
        (["cluster.emulate=[RTX 2060]"], []),
    ],
)
def test_the_cluster_of_the_job_is_meant_unless_a_word_says_otherwise(
    words: list[str], more: list[str]
) -> None:
    assert settled(words) == words + more


def test_outside_of_a_job_nothing_changes(uploaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    assert settled(["epochs=3"]) == ["epochs=3"]
    assert place_runs(load_config(uploaded)).runs == Path.cwd() / "runs"


def test_runs_lie_beside_the_store_unless_a_place_was_named(uploaded: Path, tmp_path: Path) -> None:
    assert place_runs(load_config(uploaded)).runs == tmp_path / "home" / "runs"
    named = load_config(uploaded, [f"runs={tmp_path / 'disk'}"])
    assert place_runs(named).runs == tmp_path / "disk"


def test_relative_data_are_found_where_the_submitter_s_folder_lies(
    uploaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "lab" / "cells"
    data.mkdir(parents=True)
    (missing,) = load_config(uploaded).projects
    assert missing.template.settings.data == "../cells"
    monkeypatch.setenv("ORC_DATA_ROOT", str(tmp_path / "lab" / "project"))
    (near,) = load_config(uploaded).projects
    assert near.template.settings.data == str(data), "seen from the folder that was submitted"
    (tmp_path / "lab" / "project" / "cells").mkdir(parents=True)
    (nearer,) = load_config(uploaded).projects
    assert nearer.template.settings.data == str(tmp_path / "lab" / "project" / "cells")
