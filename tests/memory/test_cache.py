"""Predictions kept on disk: found again, made again when damaged or outdated, bounded."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from orchestrator.device.catalogue import catalogue
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand
from orchestrator.plan.footprint import Segments
from orchestrator.plan.overheads import overheads
from orchestrator.plan.workload import Labels, StepKind, Workload
from tests.memory.made_traces import Layer, made_trace

MIB = 1 << 20
WORKLOAD = Workload(
    trainer="yolo",
    model="made.yaml",
    imgsz=640,
    num_classes=2,
    task="detect",
    labels=Labels(most=40, mean=8),
)
NET: list[Layer] = [(3 * MIB + 7, 2 * MIB + 100, MIB), (MIB, 300_000, 90_001)]


class CountingTracer:
    """Traces a made net, and knows how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[Workload] = []

    def __call__(self, workload: Workload) -> LinearTrace:
        self.asked.append(workload)
        most = workload.labels.most if workload.labels is not None else 0
        return LinearTrace.of(made_trace(NET, 2, labels=most), made_trace(NET, 4, labels=most))


def same(one: LinearTrace, two: LinearTrace) -> bool:
    arrays = ("order", "low", "high", "part", "module", "most")
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in arrays) and (
        (one.batches, one.module_names, one.marks) == (two.batches, two.module_names, two.marks)
    )


def test_a_trace_is_read_back_as_it_was(tmp_path: Path) -> None:
    kept, trace = TraceCache(tmp_path / "new"), CountingTracer()(WORKLOAD)
    key = kept.key(WORKLOAD)
    assert kept.trace(key) is None
    kept.keep_trace(key, trace)
    found = kept.trace(key)
    assert found is not None
    assert same(found, trace)
    assert demand(found, 17) == demand(trace, 17)


def test_a_second_predictor_neither_traces_nor_replays(tmp_path: Path) -> None:
    tracer = CountingTracer()
    first = CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1, 4, 16))])
    kept = TraceCache(tmp_path)
    (tmp_path / f"{kept.key(WORKLOAD)}.npz").unlink()  # the trace is not needed either
    assert CachedPredictor(kept, tracer).footprints([(WORKLOAD, (4, 16))]) == first
    assert len(tracer.asked) == 1
    assert sum(first[0].parts.values()) == first[0].points[-1].allocated_bytes


def test_more_sizes_are_added_by_replay_alone(tmp_path: Path) -> None:
    tracer = CountingTracer()
    predictor = CachedPredictor(TraceCache(tmp_path), tracer)
    predictor.footprints([(WORKLOAD, (1, 8))])
    (found,) = predictor.footprints([(WORKLOAD, (3, 12))])
    assert [point.micro_batch for point in found.points] == [1, 3, 8, 12]
    assert found.points[1] == demand(tracer(WORKLOAD), 3)
    assert len(tracer.asked) == 2  # of which one is the line above


@pytest.mark.parametrize(
    "damage",
    [b"", b"not a file of ours", b"PK\x03\x04", None],
    ids=["empty", "other", "begun", "one byte flipped"],
)
def test_a_damaged_file_is_made_again_and_the_log_says_so(
    tmp_path: Path, damage: bytes | None
) -> None:
    tracer = CountingTracer()
    good = CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1, 4))])
    files = sorted(tmp_path.iterdir())
    assert [file.suffix for file in files] == [".json", ".npz"]
    for file in files:
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 0x10
        file.write_bytes(bytes(raw) if damage is None else damage)
    with capture_logs() as logs:
        again = CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1, 4))])
    assert again == good
    assert {entry["file"] for entry in logs} == {str(file) for file in files}
    assert all("damaged" in entry["event"] and entry["log_level"] == "warning" for entry in logs)
    with capture_logs() as quiet:
        CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1, 4))])
    assert quiet == []


def test_every_field_of_the_workload_and_every_version_makes_another_key(tmp_path: Path) -> None:
    kept = TraceCache(tmp_path)
    others: Sequence[Workload] = (
        replace(WORKLOAD, imgsz=320),
        replace(WORKLOAD, precision="fp32"),
        replace(WORKLOAD, is_cut=True),
        replace(WORKLOAD, has_ema=False),
        replace(WORKLOAD, labels=Labels(most=41, mean=8)),
        replace(WORKLOAD, labels=None),
    )
    keys = {
        kept.key(WORKLOAD),
        *map(kept.key, others),
        TraceCache(tmp_path, versions="x").key(WORKLOAD),
    }
    assert len(keys) == len(others) + 2
    assert kept.key(replace(WORKLOAD)) == kept.key(WORKLOAD)


def test_a_model_file_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    kept, workload = TraceCache(tmp_path), replace(WORKLOAD, model=str(file))
    file.write_text("nc: 2")
    before = kept.key(workload)
    file.write_text("nc: 3")
    assert kept.key(workload) != before


def test_the_folder_stays_within_its_bound_and_what_was_used_last_stays(tmp_path: Path) -> None:
    trace = CountingTracer()(WORKLOAD)
    TraceCache(tmp_path).keep_trace("0", trace)
    size = (tmp_path / "0.npz").stat().st_size
    kept = TraceCache(tmp_path, most_bytes=3 * size + size // 2)
    for number in (1, 2):
        kept.keep_trace(str(number), trace)
    for age, name in enumerate(("2", "1", "0")):
        os.utime(tmp_path / f"{name}.npz", ns=(age, age))
    assert kept.trace("2") is not None  # used just now
    kept.keep_trace("3", trace)
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["0", "2", "3"]


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracer = CountingTracer()
    with capture_logs() as logs:
        predictor = CachedPredictor(TraceCache(tmp_path / "file" / "below"), tracer)
        (found,) = predictor.footprints([(WORKLOAD, (2,))])
    assert found.points[0] == demand(tracer(WORKLOAD), 2)
    assert {entry["event"] for entry in logs} == {"a prediction is not kept"}


def test_kinds_of_segments_are_kept_apart(tmp_path: Path) -> None:
    kept, tracer = TraceCache(tmp_path), CountingTracer()
    found = [
        CachedPredictor(kept, tracer, segments=segments).footprints([(WORKLOAD, (9, 70))])[0]
        for segments in (*Segments, *Segments)
    ]
    assert found[:2] == found[2:]
    assert found[0].points != found[1].points
    # Fixed segments grow with the labels, which takes a trace of half as many.
    assert [w.labels and w.labels.most for w in tracer.asked] == [40, 20]


def test_in_fixed_segments_a_training_with_labels_counts_the_growth_of_the_reserve(
    tmp_path: Path,
) -> None:
    dense = replace(WORKLOAD, labels=Labels(most=700, mean=90))
    fixed = CachedPredictor(TraceCache(tmp_path), CountingTracer(), segments=Segments.FIXED)
    (training,) = fixed.footprints([(dense, (16,))])
    (validation,) = fixed.footprints([(replace(dense, kind=StepKind.VALIDATE), (16,))])
    steady = demand(CountingTracer()(dense), 16, segments=Segments.FIXED)
    assert validation.points[0] == steady
    assert training.points[0].allocated_bytes == steady.allocated_bytes
    assert training.points[0].reserved_bytes > 1.1 * steady.reserved_bytes
    assert training.points[0].least_bytes >= steady.least_bytes
    assert sum(training.parts.values()) == steady.allocated_bytes


def test_every_card_of_the_catalogue_is_answered_from_one_entry(tmp_path: Path) -> None:
    tracer = CountingTracer()
    CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1, 2, 4, 8, 64))])
    (known,) = CachedPredictor(TraceCache(tmp_path), tracer).footprints([(WORKLOAD, (1,))])
    for card in catalogue():
        found = overheads(card.architecture)
        capacity = found.capacity(card.memory_bytes)
        most = known.largest(capacity)
        assert most >= 1
        assert found.needed_bytes(known.at(most)) <= card.memory_bytes
        assert demand(tracer(WORKLOAD), most).least_bytes <= capacity
