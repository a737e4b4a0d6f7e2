"""Measuring a project apart: some steps, validation, both peaks, and a row that says so."""

import json
from pathlib import Path

import pytest

from orchestrator.cli.app import main
from orchestrator.demo import make
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.memory.measure import Watch
from orchestrator.messages import Recut
from orchestrator.states import StopMode
from orchestrator.types import AttemptId, Card, Progress, RunId, StepProgress

MIB = 1 << 20
CARD = Card(index=0, name="RTX 2060", memory_bytes=1024 * MIB, is_emulated=True)


def watch(steps: int) -> Watch:
    return Watch(
        attempt=AttemptId(run_id=RunId("r"), number=1),
        device=EmulatedDevice(CARD, CARD.memory_bytes),
        steps=steps,
        micro_batch=4,
    )


def life(step: int, num_steps: int, epoch: int = 1) -> StepProgress:
    return StepProgress(
        epoch=epoch, epochs=9, step=step, num_steps=num_steps, images_per_second=1.0, loss=None
    )


def epoch(number: int, *, peak: int = 7 * MIB, reserved: int = 9 * MIB) -> Progress:
    return Progress(
        epoch=number,
        epochs=9,
        metrics={},
        seconds=1.0,
        num_images=8,
        peak_bytes=peak,
        peak_reserved_bytes=reserved,
        micro_batch=4,
    )


def test_who_asks_before_each_batch_leaves_after_one_of_validation() -> None:
    link = watch(3)
    for step in (1, 2, 3):
        assert link.stop_requested() is None
        link.step(life(step, 3))
    assert link.stop_requested() is None  # before the first batch of validation
    assert not link.has_validation
    assert link.stop_requested() is StopMode.ABANDON
    assert (link.has_validation, link.num_steps) == (True, 3)


@pytest.mark.parametrize(("steps", "epochs"), [(3, 1), (2, 2)])
def test_who_asks_after_each_step_leaves_after_the_epoch_that_is_enough(
    steps: int, epochs: int
) -> None:
    link, answers = watch(steps * epochs), []
    for number in range(1, epochs + 1):
        for step in range(1, steps + 1):
            link.step(life(step, steps, number))
            answers.append(link.stop_requested())
        link.report(epoch(number), None)
        answers.append(link.stop_requested())
    assert answers == [None] * (len(answers) - 1) + [StopMode.ABANDON]
    assert (link.has_validation, link.num_steps) == (True, steps * epochs)
    assert (link.peak_bytes, link.peak_reserved_bytes) == (7 * MIB, 9 * MIB)


def test_another_cut_is_measured_anew() -> None:
    link = watch(3)
    for step in (1, 2):
        link.step(life(step, 2))
        assert link.stop_requested() is None
    link.report(epoch(1, peak=900 * MIB), None)
    assert link.stop_requested() is None
    link.recut(Recut(epoch=2, old=4, new=2, why="room"))
    link.step(life(1, 2, 2))
    assert link.stop_requested() is None
    assert (link.micro_batch, link.has_validation) == (2, False)
    assert link.peak_bytes < 900 * MIB


@pytest.mark.parametrize(
    "model", ["timm/test_resnet", pytest.param("yolo11n-cls.yaml", marks=pytest.mark.slow)]
)
def test_a_profile_sees_validation_and_leaves_no_run(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make("digits-classify", tmp_path / "made")
    path = tmp_path / "exp.yaml"
    path.write_text(
        f"model: {model}\ndata: {data}\nimgsz: 32\nbatch: 8\namp: fp32\n"
        "memory: {predict: false}\n"
    )
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    words = ["--steps", "3", "--emulate-gpus", "RTX 2060", "--home", str(home), "--json"]
    assert main(["memory", "profile", str(path), *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)["peaks"]
    assert row["has_validation"]
    assert row["steps"] == 3
    assert row["peak_reserved_bytes"] >= row["peak_bytes"] > MIB
    assert main(["memory", "book", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert "VALIDATED" in out
    assert "yes" in out
    assert main(["ls", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []
