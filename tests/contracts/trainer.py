"""What every Trainer must do; subclass it and supply `trainer`, `settings` and `device`."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from orchestrator.messages import Recut
from orchestrator.ports import Device, Trainer
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    CheckpointRef,
    DeviceKind,
    Outcome,
    Progress,
    RunId,
    RunSpec,
    StepProgress,
    StopMode,
    TrainSettings,
    TrainTask,
)

__all__ = ["Killed", "RecordingLink", "TrainerContract", "attempt_of", "values"]

RUN = RunId("20250101-000000-calm-otter-0001")


FIRST = AttemptId(run_id=RUN, number=1)


class Killed(BaseException):
    """Stands for the end of the process: nothing in a trainer may catch it."""


@dataclass
class RecordingLink:
    """A RunLink that keeps what it is told, writes checkpoints to disk, and checks the order.

    `stop_when` is asked at every batch boundary with the link; `kill_after` ends the attempt
    right after that epoch was reported.
    """

    folder: Path
    attempt: AttemptId = FIRST
    resume_from: CheckpointRef | None = None
    stop_when: Callable[["RecordingLink"], StopMode | None] = lambda link: None
    kill_after: int | None = None
    saved: list[CheckpointRef] = field(default_factory=list)
    reported: list[Progress] = field(default_factory=list)
    steps: list[StepProgress] = field(default_factory=list)
    num_asked: int = 0
    recuts: list[Recut] = field(default_factory=list)
    kept: list[CheckpointRef] = field(default_factory=list)  # within epochs, the newest last

    def stop_requested(self) -> StopMode | None:
        self.num_asked += 1
        return self.stop_when(self)

    def step(self, step: StepProgress) -> None:
        assert 1 <= step.step <= step.num_steps
        assert 1 <= step.epoch <= step.epochs
        assert step.epoch == self.epoch + 1, "a step of an epoch that is not under way"
        self.steps.append(step)

    def recut(self, recut: Recut) -> None:
        assert (recut.old == recut.new) == (recut.given_up is not None)
        self.recuts.append(recut)

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        if step:
            assert epoch == self.epoch, f"steps after epoch {epoch} kept after epoch {self.epoch}"
            told = [life.step for life in self.steps if life.epoch == epoch + 1]
            assert step >= max(told, default=1), "steps that were told are not among them"
        else:
            assert epoch == self.epoch + 1, f"epoch {epoch} saved after epoch {self.epoch}"
        path = self.folder / str(self.attempt.number) / f"{epoch}-{step:03d}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            write(file)
        with path.open("rb") as file:
            check(file)
        ref = self._ref(epoch, path, is_best=is_best)
        (self.kept if step else self.saved).append(ref)
        return ref

    def unfinished(self) -> CheckpointRef | None:
        found = sorted(self.folder.glob(f"*/{self.epoch}-*.ckpt"), key=lambda path: path.name)
        return self._ref(self.epoch, found[-1]) if found and found[-1].stem[-3:] != "000" else None

    def _ref(self, epoch: int, path: Path, *, is_best: bool = False) -> CheckpointRef:
        content = path.read_bytes()
        return CheckpointRef(
            attempt=self.attempt,
            epoch=epoch,
            path=str(path),
            sha256=hashlib.sha256(content).hexdigest(),
            num_bytes=len(content),
            is_best=is_best,
        )

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        assert progress.epoch == self.epoch + 1, "epochs are reported once each, in order"
        assert checkpoint is not None
        assert checkpoint == self.saved[-1]
        assert checkpoint.epoch == progress.epoch
        self.reported.append(progress)
        if progress.epoch == self.kill_after:
            raise Killed

    @property
    def epoch(self) -> int:
        """Epochs that are recorded."""
        if self.reported:
            return self.reported[-1].epoch
        return self.resume_from.epoch if self.resume_from else 0


def attempt_of(
    settings: TrainSettings, folder: Path, *, batch: BatchPlan, number: int = 1
) -> TrainTask:
    spec = RunSpec(
        run_id=RUN,
        project="contract",
        trainer="any",
        settings=settings,
        effective_batch=batch.effective_batch,
        folder=str(folder),
        device=DeviceKind.CPU,
        num_cpus=1,
    )
    attempt = AttemptId(run_id=RUN, number=number)
    scratch = folder / "attempts" / str(number)
    scratch.mkdir(parents=True, exist_ok=True)
    return TrainTask(attempt=attempt, spec=spec, batch=batch, folder=str(scratch))


def values(reported: list[Progress]) -> list[dict[str, float]]:
    return [dict(progress.metrics) for progress in reported]


class TrainerContract:
    """Laws of `ports.Trainer`. `settings` must ask for 3 epochs; two runs in it are short."""

    tolerance = 1e-4
    batch = BatchPlan(effective_batch=8, world_size=1, micro_batch=8)

    @pytest.fixture
    def trainer(self) -> Trainer:
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> TrainSettings:
        raise NotImplementedError

    @pytest.fixture
    def device(self) -> Device:
        raise NotImplementedError

    def test_every_epoch_is_reported_once_with_its_checkpoint(
        self, trainer: Trainer, settings: TrainSettings, device: Device, tmp_path: Path
    ) -> None:
        link = RecordingLink(tmp_path / "checkpoints")
        with device.session():
            outcome, metrics = trainer.fit(
                attempt_of(settings, tmp_path, batch=self.batch), device, link
            )
        assert outcome is Outcome.FINISHED
        assert [p.epoch for p in link.reported] == [1, 2, 3]
        assert all(p.epochs == 3 and p.num_images > 0 for p in link.reported)
        assert all(p.micro_batch == self.batch.micro_batch for p in link.reported)
        assert link.steps
        best = [ref for ref in link.saved if ref.is_best][-1]
        assert dict(metrics) == pytest.approx(values(link.reported)[best.epoch - 1])

    def test_a_killed_run_goes_on_as_if_nothing_had_happened(
        self, trainer: Trainer, settings: TrainSettings, device: Device, tmp_path: Path
    ) -> None:
        task = attempt_of(settings, tmp_path, batch=self.batch)
        whole = RecordingLink(tmp_path / "whole")
        with device.session():
            ended = trainer.fit(task, device, whole)
        first = RecordingLink(tmp_path / "cut", kill_after=1)
        with suppress(Killed), device.session():
            trainer.fit(task, device, first)
        second = RecordingLink(
            tmp_path / "cut",
            attempt=replace(task.attempt, number=2),
            resume_from=first.saved[-1],
        )
        with device.session():
            resumed = trainer.fit(
                attempt_of(settings, tmp_path, batch=self.batch, number=2), device, second
            )
        both = values(first.reported + second.reported)
        assert [p.epoch for p in second.reported] == [2, 3]
        for got, wanted in zip(both, values(whole.reported), strict=True):
            assert got == pytest.approx(wanted, rel=self.tolerance, abs=self.tolerance)
        assert resumed[0] is ended[0]
        assert dict(resumed[1]) == pytest.approx(dict(ended[1]), rel=self.tolerance)

    def test_a_finished_run_that_is_started_again_reports_nothing_twice(
        self, trainer: Trainer, settings: TrainSettings, device: Device, tmp_path: Path
    ) -> None:
        task = attempt_of(settings, tmp_path, batch=self.batch)
        link = RecordingLink(tmp_path / "checkpoints")
        with device.session():
            ended = trainer.fit(task, device, link)
            again = RecordingLink(tmp_path / "checkpoints", resume_from=link.saved[-1])
            repeated = trainer.fit(task, device, again)
        assert not again.reported
        assert not again.saved
        assert repeated[0] is Outcome.FINISHED
        assert dict(repeated[1]) == pytest.approx(dict(ended[1]))

    def test_asked_to_leave_after_the_epoch_it_finishes_and_saves_it(
        self, trainer: Trainer, settings: TrainSettings, device: Device, tmp_path: Path
    ) -> None:
        link = RecordingLink(tmp_path / "checkpoints", stop_when=lambda _: StopMode.AFTER_EPOCH)
        with device.session():
            outcome, _ = trainer.fit(attempt_of(settings, tmp_path, batch=self.batch), device, link)
        assert outcome is Outcome.YIELDED
        assert [p.epoch for p in link.reported] == [1]
        assert [ref.epoch for ref in link.saved] == [1]

    def test_asked_to_leave_at_a_batch_it_leaves_before_the_next_one(
        self, trainer: Trainer, settings: TrainSettings, device: Device, tmp_path: Path
    ) -> None:
        def stop(link: RecordingLink) -> StopMode | None:
            return StopMode.AT_BATCH if link.steps else None

        link = RecordingLink(tmp_path / "checkpoints", stop_when=stop)
        with device.session():
            outcome, _ = trainer.fit(attempt_of(settings, tmp_path, batch=self.batch), device, link)
        assert outcome is Outcome.YIELDED
        assert len(link.steps) == 1
        assert not link.reported
        assert not link.saved
