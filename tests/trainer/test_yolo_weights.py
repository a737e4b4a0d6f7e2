"""The best weights of a run lie in its folder whenever a record says that they do."""

import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.randomness import load_state, save_state
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_state import read
from orchestrator.trainer.yolo_weights import BestWeights
from orchestrator.types import AttemptId, CheckpointRef, Outcome, RunId, StopMode, TrainSettings
from tests.contracts.trainer import Killed, RecordingLink, attempt_of, values
from tests.trainer.test_yolo import WHOLE, fit, settings_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

BEST = "weights/best.pt"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def of(file: Path) -> Any:
    return torch.load(file, weights_only=False)  # written a moment ago


def demand_of(ref: CheckpointRef, metrics: dict[str, float], file: Path) -> None:
    """The file has to hold the averaged weights of a checkpoint, and its numbers."""
    with Path(ref.path).open("rb") as stream:
        average = read(stream)["ema"]
    content = of(file)
    assert content["train_metrics"] == metrics
    assert content["epoch"] == -1
    kept = content["model"].state_dict()
    assert kept.keys() == average.keys()
    for name, number in average.items():
        wanted = number.half() if number.is_floating_point() else number
        assert torch.equal(kept[name], wanted), name


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    data = make_yolo_data(tmp_path_factory.mktemp("pictures") / "set", train=8, val=4)
    # untrained, its epochs are equally good: each is a best one
    return settings_of(data, seed=1)


def best_of(link: RecordingLink) -> tuple[CheckpointRef, dict[str, float]]:
    ref = [ref for ref in link.saved if ref.is_best][-1]
    return ref, values(link.reported)[ref.epoch - link.reported[0].epoch]


def test_it_is_written_once_a_minute_and_when_it_must_be(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    trainer = SimpleNamespace(ema=SimpleNamespace(ema=model), args=SimpleNamespace())
    clock, file = Clock(), tmp_path / BEST
    best = BestWeights(file, clock=clock)
    best.write()
    assert not file.exists(), "nothing is owed"
    for second, is_there in ((30, False), (60, True), (70, True)):
        clock.now = second
        best.take(trainer, {"second": second})
        assert file.exists() is is_there
        assert best.is_owed is (second != 60)
    assert of(file)["train_metrics"] == {"second": 60}
    best.write()
    assert not best.is_owed
    assert of(file)["train_metrics"] == {"second": 70}
    for second in (129, 250):  # the second of them after a long epoch
        clock.now = second
        best.take(trainer, {"second": second})
    assert of(file)["train_metrics"] == {"second": 250}


def test_what_is_owed_is_of_its_epoch_whatever_is_trained_then(tmp_path: Path) -> None:
    model, clock = torch.nn.Linear(1, 1), Clock()
    trainer = SimpleNamespace(ema=SimpleNamespace(ema=model), args=SimpleNamespace())
    best = BestWeights(tmp_path / BEST, clock=clock)
    model.weight.data.fill_(1)
    best.take(trainer, {})
    model.weight.data.fill_(2)
    best.write()
    assert float(of(tmp_path / BEST)["model"].weight) == 1


def test_at_the_end_it_is_the_best_epoch(settings: TrainSettings, tmp_path: Path) -> None:
    link, outcome = fit(settings, tmp_path)
    assert outcome is Outcome.FINISHED
    demand_of(*best_of(link), tmp_path / BEST)


def test_before_a_checkpoint_that_is_not_the_best_it_is_written(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils.metrics import DetMetrics

    link = Watching(tmp_path / "checkpoints", file=tmp_path / BEST)
    score = property(lambda _: (0.2, 0.3, 0.1)[link.epoch])  # after so many epochs
    monkeypatch.setattr(DetMetrics, "fitness", score)
    run(settings, tmp_path, link)
    assert [ref.is_best for ref in link.saved] == [True, True, False]
    assert link.was_there == [False, False, True]
    demand_of(link.saved[1], values(link.reported)[1], tmp_path / BEST)
    demand_of(link.saved[2], values(link.reported)[2], tmp_path / "weights" / "last.pt")


@pytest.mark.parametrize("mode", list(StopMode))
def test_an_attempt_that_leaves_has_written_it(
    settings: TrainSettings, tmp_path: Path, mode: StopMode
) -> None:
    def stop(link: RecordingLink) -> StopMode | None:
        return mode if link.epoch == 1 and link.num_asked > 3 else None

    link, outcome = fit(settings, tmp_path, stop_when=stop)
    assert outcome is Outcome.YIELDED
    ref, metrics = best_of(link)
    demand_of(ref, metrics, tmp_path / BEST)


def test_an_attempt_that_fails_has_written_it(settings: TrainSettings, tmp_path: Path) -> None:
    link, _ = killed(settings, tmp_path, after=1)
    demand_of(link.saved[0], values(link.reported)[0], tmp_path / BEST)


def test_the_next_attempt_writes_what_a_kill_came_before(
    settings: TrainSettings, tmp_path: Path
) -> None:
    link, _ = killed(settings, tmp_path, after=1)
    (tmp_path / BEST).write_bytes(b"of an epoch before")
    second = Watching(
        tmp_path / "checkpoints",
        attempt=replace(link.attempt, number=2),
        resume_from=link.saved[0],
        stop_when=lambda _: StopMode.ABANDON,
        file=tmp_path / BEST,
    )
    assert run(settings, tmp_path, second) is Outcome.YIELDED
    demand_of(link.saved[0], values(link.reported)[0], tmp_path / BEST)


def test_the_last_epoch_of_a_part_has_written_it_before_its_record(
    settings: TrainSettings, tmp_path: Path
) -> None:
    link = Watching(tmp_path / "checkpoints", file=tmp_path / BEST, kill_after=2)
    with suppress(Killed):
        run(settings, tmp_path, link, until=2)
    assert link.was_there[-1]


def test_a_clone_leaves_the_best_of_another_run_alone(
    settings: TrainSettings, tmp_path: Path
) -> None:
    link, _ = killed(settings, tmp_path / "donor", after=1)
    another = replace(link.saved[0], attempt=AttemptId(run_id=RunId("another"), number=1))
    clone = RecordingLink(
        tmp_path / "clone", resume_from=another, stop_when=lambda _: StopMode.ABANDON
    )
    run(settings, tmp_path / "clone", clone)
    assert not (tmp_path / "clone" / BEST).exists()


class Watching(RecordingLink):
    """Notes with each checkpoint whether the file of the best weights was there."""

    def __init__(self, folder: Path, *, file: Path, **given: Any) -> None:
        super().__init__(folder, **given)
        self.file = file
        self.was_there: list[bool] = []

    def save(self, epoch: int, write: Callable[[Any], None], **given: Any) -> CheckpointRef:
        self.was_there.append(self.file.exists())
        return super().save(epoch, write, **given)


def run(
    settings: TrainSettings, folder: Path, link: RecordingLink, *, until: int | None = None
) -> Outcome:
    number = link.attempt.number
    task = attempt_of(settings, folder, batch=WHOLE, number=number)
    task = replace(task, spec=replace(task.spec, until=until))
    return YoloTrainer().fit(task, CpuDevice(), link)[0]


def killed(settings: TrainSettings, folder: Path, *, after: int) -> tuple[RecordingLink, Path]:
    link = RecordingLink(folder / "checkpoints", kill_after=after)
    with pytest.raises(Killed):
        run(settings, folder, link)
    assert link.saved[-1].is_best
    return link, folder / BEST


def test_only_checkpoints_are_without_the_checksums_of_an_archive() -> None:
    state, weights = BytesIO(), BytesIO()
    save_state({"a": torch.arange(9)}, state)
    torch.save({"a": torch.arange(9)}, weights)
    with zipfile.ZipFile(weights) as archive:
        assert archive.testzip() is None
        assert all(member.CRC for member in archive.infolist())
    with zipfile.ZipFile(state) as archive:
        assert not any(member.CRC for member in archive.infolist())
    assert torch.equal(load_state(BytesIO(state.getvalue()))["a"], torch.arange(9))
