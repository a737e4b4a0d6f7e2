"""Pictures of a sweep: those that can be drawn are, and why others are not is said."""

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, StoreError
from orchestrator.sweep.plots import draw_sweep
from orchestrator.sweep.stub_runs import StubRuns
from tests.sweep.stored import make_record
from tests.sweep.test_study import TWO, both

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_of_several_metrics_everything_is_drawn(tmp_path: Path, kind: str, begins: bytes) -> None:
    record = make_record(StubRuns(metrics=both), **TWO)
    plots = draw_sweep(record, tmp_path / "new" / "plots", kind=kind)
    assert [path.stem for path in plots.written] == ["history", "parallel", "importance", "front"]
    assert not plots.left_out
    bytes_of = {path: path.read_bytes() for path in plots.written}
    assert all(each.startswith(begins) for each in bytes_of.values())
    draw_sweep(record, tmp_path / "new" / "plots", kind=kind)
    assert all(path.read_bytes() == each for path, each in bytes_of.items())


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    record = make_record(trials=5, scheduler="asha")
    plots = draw_sweep(record, tmp_path)
    assert [path.name for path in plots.written] == ["history.png", "parallel.png"]
    assert "needs 10 trials" in plots.left_out["importance"]
    assert "two metrics" in plots.left_out["front"]


def test_a_sweep_without_scores_has_no_picture(tmp_path: Path) -> None:
    record = make_record(trials=2, metrics=("map",))
    plots = draw_sweep(record, tmp_path)
    assert not plots.written
    assert "no scored trial" in plots.left_out["history"]


def test_a_kind_or_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    record = make_record(trials=2)
    with pytest.raises(ConfigError, match="png or svg"):
        draw_sweep(record, tmp_path, kind="gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        draw_sweep(record, tmp_path / "file")
