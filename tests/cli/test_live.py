"""What is shown while runs train: lines in pipes, bars on terminals, the same facts."""

import io
from collections.abc import Sequence

import pytest

from orchestrator.console.lines import LinesView, line_of
from orchestrator.console.live import Bar, BarsView, reasons, view_of
from orchestrator.console.say import columns, size_text, span_text
from orchestrator.messages import (
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    NodeJoined,
    ProgressReported,
    RunSubmitted,
    StepReported,
)
from orchestrator.store.memory import MemoryStore
from orchestrator.types import (
    AttemptId,
    Card,
    Cause,
    Node,
    NodeId,
    PendingReason,
    Progress,
    RunId,
    RunState,
    RunStatus,
    StepProgress,
)
from tests.cli.stored import CARDS, make_spec

SPEC = make_spec("cells")
ATTEMPT = AttemptId(run_id=SPEC.run_id, number=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def epoch(number: int, best: float) -> ProgressReported:
    row = Progress(
        epoch=number,
        epochs=3,
        metrics={"train/loss": 1.5, "metrics/mAP50-95(B)": best},
        seconds=20.0,
        num_images=640,
        peak_bytes=3 << 30,
        micro_batch=8,
    )
    return ProgressReported(at=float(number), attempt=ATTEMPT, progress=row)


def step(at: float, number: int) -> StepReported:
    told = StepProgress(
        epoch=1, epochs=3, step=number, num_steps=40, images_per_second=32.0, loss=2.5
    )
    return StepReported(at=at, attempt=ATTEMPT, step=told)


STORY: Sequence[Event] = (
    RunSubmitted(at=0.0, spec=SPEC),
    NodeJoined(at=0.0, node=Node(node_id=NodeId("box"), cards=CARDS)),
    GangStarted(at=0.0, attempt=ATTEMPT),
    step(0.5, 20),
    epoch(1, 0.25),
    epoch(2, 0.5),
    epoch(3, 0.4),
    GangFinished(at=4.0, attempt=ATTEMPT, metrics={"metrics/mAP50-95(B)": 0.5}),
)


def test_lines_are_plain_one_an_event_and_name_the_run() -> None:
    stream = io.StringIO()
    with LinesView(stream) as view:
        for event in STORY:
            view.observe(event, ())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7  # the sign of life within 30 s is none
    assert all(line[8:14] == " INFO " for line in lines)
    assert "\x1b" not in stream.getvalue()
    assert any("epoch 2/3" in line and "32.0 images/s" in line for line in lines)
    assert "RTX 2060 (emulated)" in lines[1]
    assert all(SPEC.run_id in line for line in lines if "node=" not in line)


def test_signs_of_life_come_at_most_every_thirty_seconds() -> None:
    stream = io.StringIO()
    view = LinesView(stream)
    for second in range(100):
        view.observe(step(float(second), 1 + second % 40), ())
    assert len(stream.getvalue().splitlines()) == 3


def test_bars_show_the_same_facts() -> None:
    stream = Terminal()
    with BarsView(stream) as view:
        for event in STORY:
            view.observe(event, ())
        view.note("a note")
    text = stream.getvalue()
    assert "cells" in text
    assert "a note" in text
    assert "RTX 2060 (emulated)" in text


def test_a_bar_knows_its_best_its_pace_and_its_end() -> None:
    bar = Bar(name="cells", epochs=3)
    bar.take(STORY[3])
    assert bar.done == 0.5
    assert "step 20/40" in bar.words()
    bar.take(epoch(1, 0.25))
    assert bar.left == 40.0
    assert "40 s left" in bar.words()
    bar.take(STORY[-1])
    assert bar.best == ("metrics/mAP50-95(B)", 0.5)
    assert "finished" in bar.words()


@pytest.mark.parametrize(
    ("variables", "is_lively"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"CI": "1"}, False),
        ({"ORC_NO_PROGRESS": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_bars_are_for_terminals_that_want_them(
    variables: dict[str, str], is_lively: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CI", "ORC_NO_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert isinstance(view_of(Terminal()), BarsView) is is_lively
    assert isinstance(view_of(io.StringIO()), LinesView)


def test_a_failure_says_its_cause_code_and_first_line() -> None:
    failed = GangFailed(
        at=0.0, attempt=ATTEMPT, cause=Cause.NAN_LOSS, detail="loss is NaN\nmore", code="E2301"
    )
    line = line_of(failed)
    assert line is not None
    assert "NAN_LOSS [E2301] loss is NaN" in line
    assert "more" not in line


def status(reason: PendingReason | None) -> RunStatus:
    return RunStatus(
        run_id=RunId("r"),
        project="p",
        trainer="fake",
        state=RunState.PENDING,
        attempt=0,
        priority=50,
        queue="default",
        epoch=0,
        epochs=3,
        submitted_at=0.0,
        reason=reason,
    )


def test_a_reason_to_wait_is_told_once_and_published() -> None:
    stream, store = io.StringIO(), MemoryStore()
    view, publish = LinesView(stream), reasons(store)
    event = STORY[2]
    for reason in (
        PendingReason.NOT_EVALUATED,
        PendingReason.WAITING_FOR_GPU,
        PendingReason.WAITING_FOR_GPU,
        PendingReason.FRAGMENTED,
    ):
        view.observe(event, [status(reason)])
        publish(event, [status(reason)])
        assert store.statuses()[RunId("r")].reason is reason
    told = stream.getvalue()
    assert told.count("WAITING_FOR_GPU") == 1
    assert told.count("FRAGMENTED") == 1
    assert "NOT_EVALUATED" not in told


def test_numbers_have_units() -> None:
    assert size_text(0) == "0 B"
    assert size_text(3 << 30) == "3.0 GiB"
    assert [span_text(s) for s in (5, 65, 3700, 90000)] == [
        "5 s",
        "1 min 05 s",
        "1 h 01 min",
        "1 d 1 h",
    ]
    assert columns(("A", "B"), [("x", 1), ("long", "")]) == "A     B\nx     1\nlong"


def test_an_emulated_card_says_so_and_a_real_one_does_not() -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=6 << 30)
    line = line_of(NodeJoined(at=0.0, node=Node(node_id=NodeId("box"), cards=(card,))))
    assert line is not None
    assert "emulated" not in line
