"""`orc sweep ls|show|stop|best|export`: what people and programs read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.client.access import Client
from orchestrator.config.load import load_config
from orchestrator.errors import ConfigError
from orchestrator.sweep import asking
from orchestrator.sweep.records import SweepRecord, read_sweep
from orchestrator.sweep.space import Values
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import SweepState, TrialState
from tests.sweep.stored import conduct_stored, config, make_sweep, studies

SPACE = {"lr0": {"loguniform": [1e-4, 1.0]}, "resources.memory": ["2GiB", "4GiB", "64GiB"]}


def need(settings: Values) -> int:
    return 64 << 30 if settings["resources.memory"] == "64GiB" else 0


def both(settings: Values, epoch: int) -> dict[str, float]:
    rate = settings["lr0"]
    assert isinstance(rate, float)
    return {"score": rate, "loss": rate + 1 / epoch}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, SweepRecord]:
    runs = StubRuns(epochs=2, need=need, metrics=both)
    home = tmp_path_factory.mktemp("home")
    return make_sweep(home, runs, trials=11, space=SPACE, metric=["score", "loss"])


def orc(client: Client, *words: str) -> int:
    return main(["sweep", *words, "--home", str(client.home)])


def orc_json(client: Client, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert orc(client, *words, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema_version"] == 1
    assert isinstance(value, dict)
    return value


def test_ls_tells_every_sweep(
    night: tuple[Client, SweepRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    client, record = night
    assert orc(client, "ls") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "STATE", "TRIALS", "REFUSED", "BEST", "END"]
    assert line.split()[:3] == ["night", "FINISHED", "11/11"]
    (told,) = orc_json(client, capsys, "ls")["sweeps"]
    assert told["best_trial"] == record.best.number if record.best else None
    assert told["refused"] == len(record.trials) - 11


def test_show_tells_counts_front_and_best(
    night: tuple[Client, SweepRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    client, record = night
    assert orc(client, "show", "night") == 0
    out = capsys.readouterr().out
    assert "11 of 11 trials started, 0 running, 11 finished" in out
    assert f"suggestions refused ({record.share_refused:.0%})" in out
    assert "Pareto front" in out
    told = orc_json(client, capsys, "show", "night")
    assert told["front"] == [trial.number for trial in record.front]
    assert len(told["front"]) > 1
    assert len(told["trials"]) == len(record.trials)
    states = told["sweep"]["states"]
    assert states == {"FINISHED": 11, "REFUSED": len(record.trials) - 11}
    assert "importance" not in told


def test_show_tells_importance_and_draws(
    night: tuple[Client, SweepRecord], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    client, _ = night
    told = orc_json(client, capsys, "show", "night", "--importance", "--plots", str(tmp_path))
    assert [each["metric"] for each in told["importance"]] == ["score", "loss"]
    first = told["importance"][0]
    assert (first["evaluator"], first["num_trials"], first["epoch"]) == ("ped-anova", 11, 2)
    assert next(iter(first["shares"])) == "lr0"
    assert [Path(path).name for path in told["plots"]] == [
        "history.png",
        "parallel.png",
        "importance.png",
        "front.png",
    ]
    assert orc(client, "show", "night", "--importance", "--plots", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "importance for score by ped-anova, over 11 trials at epoch 2" in out
    assert all(path in out.splitlines() for path in told["plots"])


def test_the_best_is_a_config_that_trains(
    night: tuple[Client, SweepRecord], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    client, record = night
    assert record.best is not None
    path = tmp_path / "best.yaml"
    assert orc(client, "best", "night", "--write", str(path)) == 0
    assert f"orc train {path}" in capsys.readouterr().err
    (project,) = load_config(path).projects
    assert project.template.settings.lr0 == record.best.settings["lr0"]
    size = record.best.settings["resources.memory"]
    assert project.template.memory_bytes == {"2GiB": 2 << 30, "4GiB": 4 << 30}[str(size)]
    assert main(["plan", str(path), "--emulate-gpus", "RTX 2060"]) == 0
    assert "nothing was started" in capsys.readouterr().out
    assert orc(client, "best", "night", "--write", str(path)) == 2
    assert f"{path} exists" in capsys.readouterr().err
    assert orc(client, "best", "night", "--trial", "99") == 3


def test_export_writes_a_study(
    night: tuple[Client, SweepRecord], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    optuna = pytest.importorskip("optuna")
    client, record = night
    url = f"sqlite:///{tmp_path / 'study.db'}"
    told = orc_json(client, capsys, "export", "night", "--study", url)
    assert told["trials"] == len(record.trials)
    study = optuna.load_study(study_name="night", storage=studies(url))
    assert len(study.trials) == len(record.trials)
    assert orc(client, "export", "night") == 2
    assert "--study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "nigth"), 3, "night"),
        (("show",), 2, "needs the name"),
        (("stop", "night", "--plots", "x"), 2, "--plots belongs to orc sweep show"),
        (("ls", "--study", "x"), 2, "--study belongs to orc sweep export"),
        (("show", "night", "--evaluator", "shap"), 2, "ped-anova, fanova"),
    ],
)
def test_mistakes_are_said(
    night: tuple[Client, SweepRecord],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert orc(night[0], *words) == code
    assert said in capsys.readouterr().err


def test_a_sweep_is_stopped_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, runs = Client(tmp_path), StubRuns(epochs=3)
    asking.create(
        client, config(epochs=3), name="night", trials=3, search="random", scheduler="none"
    )
    conduct_stored(client, "night", runs, most=1)
    assert orc(client, "stop", "night") == 0
    assert "orc sweep resume night" in capsys.readouterr().err
    assert read_sweep(client, "night").state is SweepState.STOPPED
    conduct_stored(client, "night", runs)
    assert orc(client, "stop", "night") == 0  # it has ended: nothing to stop
    record = read_sweep(client, "night")
    assert record.state is SweepState.FINISHED
    assert [trial.state for trial in record.trials] == [TrialState.FINISHED] * 3
    assert len(runs.launches) == 3


def test_a_sweep_learns_from_earlier_ones_that_fit_its_space(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    client, earlier = make_sweep(
        tmp_path, StubRuns(epochs=1), trials=6, space={"lr0": {"loguniform": [1e-4, 1.0]}}
    )
    block: dict[str, Any] = {"search": "tpe", "warm": ["night"], "trials": 2}
    wide = asking.create(
        client, config(), name="wide", space={"lr0": {"loguniform": [1e-5, 1.0]}}, **block
    )
    assert [known.values for known in wide.known] == [trial.values for trial in earlier.trials]
    narrow = asking.create(
        client, config(), name="narrow", space={"lr0": {"loguniform": [1e-2, 1.0]}}, **block
    )
    rates = [trial.values["lr0"] for trial in earlier.trials]
    inside = [rate for rate in rates if isinstance(rate, float) and rate >= 1e-2]
    assert 0 < len(inside) < 6
    assert [known.values["lr0"] for known in narrow.known] == inside
    from orchestrator.sweep.conducting import searcher_of

    study = searcher_of(wide).study  # type: ignore[attr-defined]
    best = max(earlier.score(trial)[0] for trial in earlier.trials)
    assert study.best_value == pytest.approx(best)
    with pytest.raises(ConfigError):
        asking.continued(client, "wide", config(), space={"lr0": [0.1]}, **block)


def test_a_sweep_goes_on_longer_but_not_over_another_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = {"name": "night", "trials": 2, "search": "random", "space": {"batch": [16, 32]}}
    path = tmp_path / "night.yaml"
    path.write_text(json.dumps({**config(), "sweep": block}))
    client = Client(tmp_path / "home")
    asking.create(client, path)
    before = read_sweep(client, "night")
    assert orc(client, "resume", "night", str(path), "sweep.space={batch: [16, 64]}") == 2
    said = capsys.readouterr().err
    assert "E1061" in said
    assert "changed in the space: batch" in said
    assert "sweep.warm=[night]" in said
    assert read_sweep(client, "night") == before
    assert orc(client, str(path)) == 2  # there is one of this name
    said = capsys.readouterr().err
    assert "E5030" in said
    assert "orc sweep resume night" in said
    assert asking.continued(client, "night", path, ["sweep.trials=5"]).trials == 5


def test_the_job_is_an_entry_point_with_the_exit_codes_of_the_command(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "jobs.sweep", str(tmp_path / "none.yaml"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 3
    assert json.loads(told.stdout)["error"]["code"] == "E5001"


@pytest.mark.parametrize(("given", "held"), [("auto", 3 << 30), ("2GiB", 2 << 30)])
def test_the_best_is_held_to_the_memory_that_its_trials_were_held_to(
    tmp_path: Path, given: str, held: int
) -> None:
    client = Client(tmp_path)
    asked = config(resources={"memory": given}, epochs=1)
    block: dict[str, Any] = {"name": "night", "trials": 1, "search": "random"}
    asking.create(client, asked, space={"lr0": [0.1]}, limits={"memory": "3GiB"}, **block)
    conduct_stored(client, "night", StubRuns(epochs=1))
    path = tmp_path / "best.yaml"
    assert orc(client, "best", "night", "--write", str(path)) == 0
    assert load_config(path).projects[0].template.memory_bytes == held
