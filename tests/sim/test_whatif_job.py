"""The command compares policies as table, JSON and picture, and tells mistakes plainly."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.cli.app import main

JOBS = "submit_s,duration_s,gpus,queue\n" + "".join(
    f"{i * 60},{600 * (i % 5 + 1)},{i % 4 + 1},{'ab'[i % 2]}\n" for i in range(30)
)
SCRIPT = """
seed: 3
nodes: [{count: 2, gpu: A100, memory_gib: 40}]
runs: {count: 20, every_seconds: 5, epochs: [1, 2]}
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.csv"
    path.write_text(JOBS)
    return path


def test_json_holds_a_row_of_figures_for_each_policy(
    jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(jobs), "--policy", "fifo,queue", "--json", "--limit", "20"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["schema_version"] == 1
    assert told["runs"] == 20
    assert told["broken_rows"] == 0
    assert told["gpus"] % 8 == 0
    assert "made to fit" in told["cluster"]
    assert [row["policy"] for row in told["policies"]] == ["fifo", "queue"]
    for row in told["policies"]:
        assert row["states"] == {"SUCCEEDED": 20}
        assert row["completion_hours"]["p50"] <= row["completion_hours"]["p99"]
        assert 0 < row["waiting_hours"]["mean"] <= row["completion_hours"]["mean"]
        assert 0 < row["utilisation"] <= 1
        assert 0 < row["jain_queues"] <= 1
        assert set(row["finish_time_fairness"]) == {"mean", "p99", "worst", "unfair_part"}
        assert row["energy_kwh"] > 0
        assert row["restarts"] == 0
        assert row["forecast_error"] is None or row["forecast_error"] < 0.5
    assert "events in" in said.err


def test_the_table_has_a_column_a_policy(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(jobs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if line.split() and line.split()[0] == "queue")
    assert heading.split()[:2] == ["queue", "fifo"]
    for name in ("completion, mean", "waiting, mean", "makespan", "utilisation", "fairness, mean",
                 "Jain's index, queues", "energy", "restarts", "forecast error"):  # fmt: skip
        (line,) = [line for line in lines if line.startswith(name)]
        assert len(line) <= max(len(heading), 100)
    assert any(line.startswith("cluster: ") and "made to fit" in line for line in lines)


def test_a_cluster_can_be_named_and_a_script_can_be_compared(
    tmp_path: Path, jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("nodes: [{count: 3, gpu: RTX 4090, gpus: 4, speed: 2}]")
    words = ["--cluster", str(cluster), "--policy", "queue", "--json"]
    assert main(["simulate", str(jobs), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gpus"] == 12
    assert told["cluster"].startswith("3 x 4 RTX 4090")
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    assert main(["simulate", str(script), *words, "--limit", "10"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["gpus"]) == (10, 12)
    assert told["policies"][0]["states"] == {"SUCCEEDED": 10}
    assert main(["simulate", str(script), "--json"]) == 0  # alone it reports as ever
    assert len(json.loads(capsys.readouterr().out)["digest"]) == 64


def test_a_plot_is_a_picture_and_the_same_one_each_time(tmp_path: Path, jobs: Path) -> None:
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        assert main(["simulate", str(jobs), "--plot", str(tmp_path / name)]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
        assert picture.size == (1200, 840)
    with Image.open(tmp_path / "a.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert {(0, 114, 178), (213, 94, 0)} <= {colour for _, colour in colours}  # a line a policy
    root = ET.parse(tmp_path / "a.svg").getroot()  # noqa: S314 - we have just written it
    assert root.tag.endswith("svg")
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_one_seed_prints_the_same_bytes(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["simulate", str(jobs), "--json", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["none.csv"], 3, "E3401"),
        (["jobs.csv", "--policy", "lifo"], 2, "E1204"),
        (["jobs.csv", "--policy", ","], 2, "E1204"),
        (["jobs.csv", "--limit", "0"], 2, "E1203"),
        (["jobs.csv", "--part", "x"], 2, "E1205"),
        (["jobs.csv", "--plot", "plot.gif"], 2, "E1206"),
        (["jobs.csv", "--plot", "none/plot.png"], 2, "E1206"),
        (["jobs.csv", "--cluster", "none.yaml"], 3, "E5001"),
        (["jobs.csv", "--cluster", "jobs.csv"], 2, "E1"),
        (["jobs.csv", "--cluster", "tiny.yaml"], 5, "E2105"),
        (["wide.yaml", "--policy", "fifo"], 5, "E2105"),
        (["wide.yaml", "--policy", "fifo", "--part", "x"], 2, "E1205"),
        (["broken.csv"], 2, "E3402"),
        (["."], 3, "E3401"),
    ],
)
def test_mistakes_have_an_exit_code_and_no_traceback(
    words: list[str],
    code: int,
    error: str,
    jobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(jobs.parent)
    Path("tiny.yaml").write_text("nodes: [{count: 1, gpu: A100 SXM4 40GB, gpus: 2}]")
    Path("wide.yaml").write_text(SCRIPT.replace("count: 20", "count: 20, gangs: {1: 1, 17: 1}"))
    Path("broken.csv").write_text(JOBS + "soon,1,1,a\n")
    assert main(["simulate", *words]) == code
    said = capsys.readouterr()
    assert f"error[{error}" in said.err
    assert "Traceback" not in said.err
    assert not said.out
    assert main(["simulate", "broken.csv", "--skip-broken", "--policy", "fifo"]) == 0
    assert "1 of 31 rows were left out; line 32" in capsys.readouterr().out
