"""A project of several runs: asked for once, gone on with, resumed whole, its results written."""

import csv
import json
import statistics
from pathlib import Path

import pytest
import yaml

from orchestrator.client.access import Client
from orchestrator.client.keys import made_anew
from orchestrator.client.lines import with_followers
from orchestrator.client.plans import Planner
from orchestrator.client.prepare import order_runs, submit_orders
from orchestrator.client.results import SeriesObserver, series_of, write_results
from orchestrator.client.series import Order
from orchestrator.config.load import load_config
from orchestrator.console.report import prepared
from orchestrator.console.series import show_series
from orchestrator.errors import ConfigError
from orchestrator.messages import TimePassed
from orchestrator.types import Card, Cause, RunId, RunState
from tests.cli.stored import drive_store
from tests.plan.hand_made import GIB, Lines
from tests.trainer.picture_folders import make_pictures

CONFIG = """\
runs: {runs}
projects:
- name: cells
  model: fake
  trainer: fake
  data: none
  epochs: 3
  epoch_seconds: 10
  folds: 2
  stages: [{{name: small, imgsz: 64}}, {{name: full, epochs: 4}}]
- {{name: alone, model: fake, trainer: fake, data: none, epochs: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exp.yaml").write_text(CONFIG.format(runs=tmp_path / "runs"))
    return tmp_path


def ask(
    folder: Path, *words: str, client: Client | None = None, at: float = 1000.0
) -> tuple[RunId, ...]:
    config = load_config(folder / "exp.yaml", words, environment={"ORC_CONFIG": "none"})
    client = client or Client(folder / "home")
    return submit_orders(order_runs(config, client, at), config, client, ())


def cells(folder: Path) -> dict[str, RunState]:
    runs = Client(folder / "home").runs("cells")
    return {str(run.part): run.state for run in runs}


def test_every_fold_goes_through_the_stages_one_after_the_other(folder: Path) -> None:
    ids = ask(folder)
    assert len(set(ids)) == 5
    client = Client(folder / "home")
    specs = {str(client.show(run_id).spec.part): client.show(run_id).spec for run_id in ids[:4]}
    for fold in (1, 2):
        one = specs[f"fold {fold}/2, stage 1/2 small"]
        two = specs[f"fold {fold}/2, stage 2/2 full"]
        assert not one.after
        assert one.weights_from is None
        assert two.after == (one.run_id,)
        assert two.weights_from == one.run_id
        assert (one.settings.imgsz, one.settings.epochs) == (64, 3)
        assert (two.settings.imgsz, two.settings.epochs) == (640, 4)
    assert len({spec.part.series for spec in specs.values() if spec.part}) == 1
    drive_store(client)
    assert set(cells(folder).values()) == {RunState.SUCCEEDED}


def test_the_same_config_goes_on_with_its_series_and_trains_anew_after_its_end(
    folder: Path,
) -> None:
    first = ask(folder)
    client = Client(folder / "home")
    assert ask(folder) == first  # asked, not yet taken
    drive_store(client, num_events=20)
    states = set(cells(folder).values())
    assert RunState.SUCCEEDED in states
    assert states - {RunState.SUCCEEDED}
    assert ask(folder)[:4] == first[:4]  # runs of it that have ended are part of it
    drive_store(client)
    second = ask(folder)
    assert not set(second) & set(first)
    assert ask(folder, "cells.folds.seed=1")[0] not in (*first, *second)


def test_what_was_never_asked_for_is_asked_for_and_the_rest_left_alone(folder: Path) -> None:
    class Died(Exception):  # noqa: N818 - it is the end of the asking process
        pass

    class Mortal(Client):
        def submit(self, *given: object, **named: object) -> tuple[RunId, ...]:
            if self.path.exists() and self.runs("cells"):
                raise Died
            return super().submit(*given, **named)  # type: ignore[arg-type]  # handed on as given

    with pytest.raises(Died):
        ask(folder, client=Mortal(folder / "home"))
    assert list(cells(folder)) == ["fold 1/2, stage 1/2 small", "fold 2/2, stage 1/2 small"]
    client = Client(folder / "home")
    before = [run.id for run in client.runs("cells")]
    drive_store(client)
    ids = ask(folder)
    assert [ids[0], ids[2]] == before
    drive_store(client)
    assert set(cells(folder).values()) == {RunState.SUCCEEDED}
    assert len(client.runs("cells")) == 4


def test_a_series_made_anew_is_one_of_its_own_beside_that_under_way(folder: Path) -> None:
    first = ask(folder)
    client = Client(folder / "home")
    config = load_config(folder / "exp.yaml", [], environment={"ORC_CONFIG": "none"})
    orders = made_anew(order_runs(config, client, 1000.0), 1000.0)
    again = submit_orders(orders, config, client, ())
    assert not set(first) & set(again)
    drive_store(client)
    series = series_of(client.runs("cells"))
    assert [len(each.runs) for each in series] == [4, 4]
    assert all(each.has_ended for each in series)
    assert {run.state for run in client.runs()} == {RunState.SUCCEEDED}
    own = {frozenset(run.id for run in each.runs) for each in series}
    assert own == {frozenset(first[:4]), frozenset(again[:4])}


def test_two_that_ask_at_once_ask_for_one_series(folder: Path) -> None:
    client = Client(folder / "home")
    config = load_config(folder / "exp.yaml", [], environment={"ORC_CONFIG": "none"})
    mine, theirs = (order_runs(config, client, 1000.0) for _ in range(2))
    first = submit_orders(mine, config, client, ())
    assert submit_orders(theirs, config, client, ()) == first
    assert len(client.runs()) == 5
    drive_store(client)
    assert {run.state for run in client.runs()} == {RunState.SUCCEEDED}


def test_a_failed_stage_ends_the_next_and_both_are_resumed_by_one_word(folder: Path) -> None:
    ids = ask(folder, "cells.fail_at_epoch=2", "cells.schedule.retry=0", "cells.fault_attempts=1")
    client = Client(folder / "home")
    drive_store(client)
    ended = {str(run.part): run for run in client.runs("cells")}
    assert {run.state for run in ended.values()} == {RunState.FAILED}
    assert ended["fold 1/2, stage 2/2 full"].cause == Cause.DEPENDENCY_FAILED
    with pytest.raises(ConfigError, match=f"comes after {ids[0]}, which FAILED") as refused:
        with_followers(client, [ids[1]])
    assert refused.value.code == "E1034"
    assert with_followers(client, [ids[0]]) == (ids[0], ids[1])
    assert with_followers(client, [ids[1], ids[0]]) == (ids[0], ids[1])
    for run_id in with_followers(client, [ids[0]]):
        client.resume(run_id)
    drive_store(client)
    again = {run.id: run.state for run in client.runs("cells")}
    assert again[ids[0]] is RunState.SUCCEEDED
    assert again[ids[2]] is RunState.FAILED  # nobody asked for the other fold
    assert again[ids[1]] is RunState.FAILED  # by its own planted fault
    assert client.run(ids[1]).cause == Cause.USER_ERROR


def test_results_are_written_once_the_series_has_ended_each_fold_and_stage_once(
    folder: Path,
) -> None:
    client = Client(folder / "home")
    ids = ask(folder)
    drive_store(client, num_events=20)
    table = folder / "runs" / "cells" / "folds.csv"
    observe(client)
    assert not table.exists()
    drive_store(client)
    observe(client)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["stage"]) for row in rows] == [
        ("1", "1"),
        ("1", "2"),
        ("2", "1"),
        ("2", "2"),
    ]
    assert [row["run"] for row in rows] == list(ids[:4])
    best = {run.id: run.best for run in client.runs("cells")}
    assert [float(row["loss"]) for row in rows] == [best[row["run"]]["loss"] for row in rows]
    body = json.loads(table.with_suffix(".json").read_text())
    summary = {row["stage"]: row["metrics"]["loss"] for row in body["summary"]}
    losses = [float(row["loss"]) for row in rows if row["stage"] == "2"]
    assert summary[2]["mean"] == pytest.approx(statistics.mean(losses))
    assert summary[2]["std"] == pytest.approx(statistics.stdev(losses))
    assert summary[2]["num"] == 2


def test_a_config_trained_twice_counts_once_and_two_configs_both(folder: Path) -> None:
    client = Client(folder / "home")
    for number, words in enumerate(((), (), ("cells.lr0=0.5",)), 1):
        ask(folder, *words, at=1000.0 * number)
        drive_store(client)
    observe(client)
    with (folder / "runs" / "cells" / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = [(row["config"], row["fold"], row["stage"]) for row in rows]
    assert len(keys) == len(set(keys)) == 8
    series = series_of(client.runs("cells"))
    assert len(series) == 3
    assert {row["run"] for row in rows}.isdisjoint(run.id for run in series[0].runs)


def test_a_fold_that_failed_is_in_the_table_and_not_in_the_mean(folder: Path) -> None:
    client = Client(folder / "home")
    ids = ask(folder)
    drive_store(client, num_events=8)
    client.stop(ids[2], now=True)
    drive_store(client)
    (series,) = series_of(client.runs("cells"))
    assert series.has_ended
    assert [run.state for run in series.runs] == [
        RunState.SUCCEEDED,
        RunState.SUCCEEDED,
        RunState.CANCELLED,
        RunState.FAILED,
    ]
    spread = series.spread(2)["loss"]
    assert (spread.num, spread.std) == (1, None)
    assert len(write_results([series])) == 2


def test_stages_without_folds_have_a_table_of_their_own(folder: Path) -> None:
    text = (folder / "exp.yaml").read_text().replace("  folds: 2\n", "")
    (folder / "exp.yaml").write_text(text)
    client = Client(folder / "home")
    ask(folder)
    drive_store(client)
    observe(client)
    names = {path.name for path in (folder / "runs" / "cells").glob("*.*s*")}
    assert names == {"stages.csv", "stages.json"}


def test_show_tells_a_project_with_its_folds_as_a_table_and_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(folder / "home")
    ask(folder)
    drive_store(client)
    assert show_series(client, "cells", as_json=False)
    out = capsys.readouterr().out
    assert "mean of 2  2/2 full" in out
    assert out.count("SUCCEEDED") == 4
    assert show_series(client, "cells", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["has_ended"]
    assert [run["part"]["fold"] for run in told["runs"]] == [1, 1, 2, 2]
    assert told["summary"][1]["metrics"]["loss"]["num"] == 2
    assert not show_series(client, "alone", as_json=False)
    assert not show_series(client, "nobody", as_json=False)


def test_every_stage_is_fitted_apart_with_what_the_whole_data_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the extra [folds] is not installed")
    make_pictures(tmp_path / "set", classes=2, each=6)
    (tmp_path / "exp.yaml").write_text(
        f"runs: {tmp_path / 'runs'}\nname: p\nmodel: timm/resnet10t\ndata: set\nbatch: 32\n"
        "folds: 2\nstages: [{name: small, imgsz: 32}, {name: full, imgsz: 64}]\n"
    )
    config = load_config(tmp_path / "exp.yaml", [], environment={"ORC_CONFIG": "none"})
    client = Client(tmp_path / "home")
    cards = (Card(index=0, name="RTX 2060", memory_bytes=6 * GIB, is_emulated=True),)
    lines = Lines(fixed=GIB)

    def order() -> tuple[Order, ...]:
        return order_runs(config, client, 1000.0, cards, lambda: Planner(lines))

    orders = order()
    shares = [order.spec.memory_bytes or 0 for order in orders]
    assert shares[0] == shares[2] < shares[1] == shares[3]
    assert len({order.spec.settings.data for order in orders}) == 2
    prepared(orders)
    told = capsys.readouterr().err
    assert told.count("p stage 1/2 small: batch 32") == 1
    assert told.count("p stage 2/2 full: batch 32") == 1
    ids = submit_orders(orders, config, client, cards)
    assert [order.run_id for order in order()] == list(ids)
    block = yaml.safe_load((tmp_path / "runs" / "p" / ids[3] / "config.yaml").read_text())
    assert block["projects"][0]["data"] == str(tmp_path / "set")
    assert block["projects"][0]["folds"]["k"] == 2


def observe(client: Client) -> None:
    """What the next driver does with its first event."""
    with client.store() as store:
        SeriesObserver(store)(TimePassed(at=0.0))
