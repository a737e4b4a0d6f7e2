"""The book of measured peaks in a store."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from orchestrator.plan.correct import Peak
from orchestrator.store.schema import HEAD
from orchestrator.store.sql import SqlStore
from tests.store.revisions import make_store_of

PEAK = Peak(
    trainer="timm",
    model="timm/resnet50",
    imgsz=224,
    micro_batch=16,
    precision="bf16",
    optimizer="AdamW",
    card="RTX 4090",
    is_emulated=False,
    versions="torch=2.15.0",
    peak_bytes=5 * 2**30,
    peak_reserved_bytes=6 * 2**30,
    steps=40,
    predicted_bytes=4 * 2**30,
    workload='{"model": "resnet50"}',
    at=100.0,
    attempt="run#1",
)


def test_what_was_recorded_is_read_back_by_anyone(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    with SqlStore(path) as store:
        store.record_peak(PEAK)
        store.record_peak(replace(PEAK, model="yolo11n.yaml", attempt="other#1", is_emulated=True))
    with SqlStore(path) as store:
        assert store.peaks("timm/resnet50") == (PEAK,)
        assert [peak.is_emulated for peak in store.peaks()] == [False, True]


def test_an_attempt_and_cut_has_one_row_with_its_largest_peaks(tmp_path: Path) -> None:
    with SqlStore(str(tmp_path / "a.db")) as store:
        store.record_peak(PEAK)
        smaller = replace(PEAK, peak_bytes=1, peak_reserved_bytes=7 * 2**30, steps=80, at=200.0)
        store.record_peak(replace(smaller, predicted_bytes=None, has_validation=False))
        store.record_peak(replace(PEAK, micro_batch=8))
        first, second = store.peaks()
    assert first == replace(PEAK, peak_reserved_bytes=7 * 2**30, steps=80, at=200.0)
    assert second.micro_batch == 8


def test_a_book_of_the_first_version_gets_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    make_store_of("0001", path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(
            "INSERT INTO book (model, imgsz, micro_batch, precision, optimizer, card, versions,"
            " peak_bytes, at, attempt) VALUES ('m', 32, 1, 'fp32', 'SGD', 'c', 'v', 9, 1.0, 'r#1')"
        )
    with SqlStore(str(path)) as store:
        (old,) = store.peaks()
        assert (old.model, old.peak_bytes, old.steps, old.predicted_bytes) == ("m", 9, 0, None)
        assert not old.has_validation  # no run of this store: a few steps, measured apart
        store.record_peak(PEAK)
        assert len(store.peaks()) == 2
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT version_num FROM meta").fetchone() == (HEAD,)
