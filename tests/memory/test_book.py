"""What is written into the book while runs report their epochs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.memory.book import PLAN_FILE, BookObserver, target_of
from orchestrator.messages import NodeJoined, ProgressReported, RunSubmitted
from orchestrator.plan.correct import Peak
from orchestrator.types import (
    AttemptId,
    Card,
    Node,
    NodeId,
    Placement,
    Progress,
    RunId,
    RunSpec,
    RunState,
    RunStatus,
    Share,
)
from tests.strategies import GIB, make_spec

RUN = RunId("r")
CARD = Card(index=0, name="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB)
EMULATED = replace(CARD, index=1, name="RTX 2060", is_emulated=True)
NODE = Node(node_id=NodeId("n"), cards=(CARD, EMULATED))


class Kept:
    """A book in a list."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.peaks: list[Peak] = []
        self._is_full = is_full

    def record_peak(self, peak: Peak) -> None:
        if self._is_full:
            raise StoreError("the disk is full", code="E5004")
        self.peaks.append(peak)

    def spec(self, run_id: str) -> RunSpec:
        return replace(make_spec(run_id), trainer="timm")


def status(card: int | None = 0) -> RunStatus:
    share = Share(node_id=NodeId("n"), card=card, memory_bytes=GIB)
    return RunStatus(
        run_id=RUN,
        project="p",
        trainer="timm",
        state=RunState.RUNNING,
        attempt=1,
        priority=50,
        queue="default",
        epoch=1,
        epochs=3,
        submitted_at=0.0,
        placement=Placement((share,)),
    )


def epoch(number: int = 1, peak: int = GIB, micro_batch: int = 4) -> ProgressReported:
    return ProgressReported(
        at=float(number),
        attempt=AttemptId(run_id=RUN, number=1),
        progress=Progress(
            epoch=number,
            epochs=9,
            metrics={},
            seconds=1.0,
            num_images=80,
            peak_bytes=peak,
            micro_batch=micro_batch,
        ),
    )


def observed(book: Kept, *events: ProgressReported, card: int | None = 0) -> Kept:
    observer = BookObserver(book)
    observer(NodeJoined(at=0.0, node=NODE))
    for event in events:
        observer(event, (status(card),))
    return book


def test_every_epoch_with_a_peak_is_a_row_of_its_card() -> None:
    first, second = observed(Kept(), epoch(3), epoch(4)).peaks
    assert (first.card, first.is_emulated) == ("RTX 4090", False)
    assert (first.micro_batch, first.peak_bytes, first.attempt) == (4, GIB, "r#1")
    assert first.precision == "bf16"  # auto, on a card of compute capability 8.9
    assert (first.steps, second.steps) == (10, 20)
    assert "torch=" in first.versions


def test_an_emulated_card_is_said_to_be_one() -> None:
    (peak,) = observed(Kept(), epoch(), card=1).peaks
    assert (peak.card, peak.is_emulated, peak.precision) == ("RTX 2060", True, "fp32")


def test_runs_on_the_cpu_and_epochs_without_a_peak_leave_nothing() -> None:
    assert observed(Kept(), epoch(), card=None).peaks == []
    assert observed(Kept(), epoch(peak=0)).peaks == []


def test_the_prediction_stands_beside_the_peak_unless_the_run_was_cut_otherwise(
    tmp_path: Path,
) -> None:
    plans = [
        {"gpu": "RTX 2060", "micro_batch": 4, "traced_bytes": 1, "workload": "other"},
        {"gpu": "RTX 4090", "micro_batch": 4, "traced_bytes": 7, "workload": "w"},
    ]
    (tmp_path / PLAN_FILE).write_text(json.dumps({"plans": plans}))
    book = Kept()
    observer = BookObserver(book)
    observer(NodeJoined(at=0.0, node=NODE))
    spec = replace(make_spec("r"), trainer="timm", folder=str(tmp_path))
    observer(RunSubmitted(at=0.0, spec=spec))
    observer(epoch(1), (status(),))
    observer(epoch(2, micro_batch=2), (status(),))
    assert [(p.predicted_bytes, p.workload) for p in book.peaks] == [(7, "w"), (None, "")]


def test_a_run_that_gave_something_up_is_another_step_than_was_planned(tmp_path: Path) -> None:
    plans = [{"gpu": "RTX 2060", "micro_batch": 4, "traced_bytes": 7, "workload": "w"}]
    (tmp_path / PLAN_FILE).write_text(json.dumps({"plans": plans}))
    book = Kept()
    observer = BookObserver(book)
    observer(NodeJoined(at=0.0, node=NODE))
    spec = replace(make_spec("r"), trainer="timm", folder=str(tmp_path))
    observer(RunSubmitted(at=0.0, spec=spec))
    event = epoch()
    rungs = ("checkpointing=on", "amp=bf16")
    observer(replace(event, progress=replace(event.progress, rungs=rungs)), (status(1),))
    (peak,) = book.peaks
    assert (peak.predicted_bytes, peak.workload, peak.precision) == (None, "", "bf16")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plans": [3]}', '{"plans": [{"gpu": "x"}]}'])
def test_a_damaged_plan_costs_the_prediction_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN_FILE).write_text(text)
    book = Kept()
    observer = BookObserver(book)
    observer(NodeJoined(at=0.0, node=NODE))
    observer(RunSubmitted(at=0.0, spec=replace(make_spec("r"), folder=str(tmp_path))))
    observer(epoch(1), (status(),))
    assert [peak.predicted_bytes for peak in book.peaks] == [None]


def test_a_store_that_refuses_stops_nobody() -> None:
    told: list[str] = []
    observer = BookObserver(Kept(is_full=True), told.append)
    observer(NodeJoined(at=0.0, node=NODE))
    observer(epoch(1), (status(),))
    assert "the disk is full" in told[0]


def test_a_card_that_the_catalogue_does_not_know_is_planned_for_with_the_worst() -> None:
    target = target_of(replace(CARD, name="Voodoo 2"))
    assert (target.name, target.architecture) == ("Voodoo 2", "custom")
    assert target.compute_capability is None
