"""The simulate job reports what came of a script, and mistakes without a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import simulate
from orchestrator.errors import ConfigError, NotFoundError

SMALL = """
seed: 3
nodes: [{count: 2, gpu: A100, memory_gib: 40}]
runs: {count: 20, every_seconds: 5, epochs: [1, 2]}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.yaml"
    path.write_text(SMALL)
    return path


def test_the_report_is_one_json_object(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(str(script), json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["states"] == {"SUCCEEDED": 20}
    assert report["gpus"] == 16
    assert 0 < report["utilisation"] <= 1
    assert len(report["digest"]) == 64


def test_the_seed_of_the_command_line_replaces_that_of_the_file(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = []
    for seed in (None, 3, 4):
        simulate.main(str(script), seed=seed, json=True)
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_the_shipped_script_is_one() -> None:
    script = simulate._load(simulate.DEFAULT_CONFIG)
    assert sum(group.count for group in script.nodes) == 1_000
    assert sum(group.count * group.gpus for group in script.nodes) == 8_000
    assert script.runs.count == 10_000


def test_a_file_that_is_not_there_or_no_script_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no config file"):
        simulate.main(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("nodes: [{count: 4")
    with pytest.raises(ConfigError, match="is not YAML"):
        simulate.main(str(broken))


def test_the_command_shows_no_traceback_for_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    path.write_text(SMALL.replace("epochs", "epocs"))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.simulate", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error[E1201]: unknown key runs.epocs" in done.stderr
    assert "Traceback" not in done.stderr
