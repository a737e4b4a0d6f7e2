"""Runs for the recovery bench: one attempt on a card that fills up on cue, with all it did."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.recovery_work import CARD, WatchingLink, task_of
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import TrainingError
from orchestrator.messages import Recut
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.trainer.update import UpdateRoom
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_step import CutStep
from orchestrator.types import BatchPlan, Bytes, Progress, StopMode, TrainSettings

__all__ = ["Done", "Fill", "Load", "Work", "run"]

Load = dict[tuple[int, int], Bytes]
"""The most bytes alive during each step of each epoch; step 0 is its validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Another process takes memory before `step` of `epoch` (0: before its validation)."""

    epoch: int
    step: int
    room: Bytes  # what is left for the run
    lasts: int  # steps until the other process is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is trained: settings with a plan, on one rank or on one of several."""

    trainer: str
    settings: TrainSettings
    batch: BatchPlan
    num_steps: int  # optimizer steps of an epoch
    rank: int = 0


@dataclass(slots=True)
class Done:
    """What a run did."""

    load: Load = field(default_factory=dict)
    samples: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    num_updates: int = 0
    wrong: list[str] = field(default_factory=list)
    reported: list[Progress] = field(default_factory=list)
    recuts: list[Recut] = field(default_factory=list)
    error: str = ""


class _Link(WatchingLink):
    """Knows which step comes next, measures the last one, and fills the card on cue."""

    def __init__(self, folder: Path, work: Work, device: EmulatedDevice, fill: Fill | None) -> None:
        super().__init__(folder)
        self.done = Done()
        self.epoch, self.number = 1, 1
        self._work, self._device, self._fill = work, device, fill
        self._left = 0
        self._cue()

    def stop_requested(self) -> StopMode | None:
        """Asked after each step by one trainer, before each by the other: nothing is done here."""
        return None

    def step_ended(self) -> None:
        """An optimizer step is over."""
        self._measure()
        self.number = 0 if self.number == self._work.num_steps else self.number + 1
        self._cue()

    def report(self, progress: Progress, checkpoint: Any) -> None:
        """The validation is over as well."""
        super().report(progress, checkpoint)
        self.epoch_ended()

    def epoch_ended(self) -> None:
        """The next step is the first of another epoch."""
        self._measure()
        self.epoch, self.number = self.epoch + 1, 1
        self._cue()

    def _measure(self) -> None:
        self.done.load[self.epoch, self.number] = self._device.peak_bytes()

    def _cue(self) -> None:
        self._device.reset_peak()
        fill = self._fill
        if fill is not None and (self.epoch, self.number) == (fill.epoch, fill.step):
            self._device.set_foreign(CARD.memory_bytes - fill.room)
            self._left = fill.lasts
        elif self._left:
            self._left -= 1
            if not self._left:
                self._device.set_foreign(0)


class _Watch:
    """Sees which samples every finished step was made of, in both trainers."""

    def __init__(self, link: _Link, device: EmulatedDevice) -> None:
        self._link, self._device = link, device
        self._seen: list[float] = []  # in the try of a step that is under way

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch both trainers while inside."""
        patches: list[tuple[Any, str, Callable[[Any], Any]]] = [
            (CutStep, "_run_batch", self._begins),
            (CutStep, "_prepare", self._sees(lambda piece: piece["img"])),
            (CutStep, "__call__", self._step_done),
            (Learner, "_gradients", self._begins),
            (Learner, "_to_device", self._sees(lambda piece: piece[0])),
            (Learner, "learn", self._learnt),
            (UpdateRoom, "demand", self._updates),
        ]
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
        for owner, name, wrap in patches:
            setattr(owner, name, wrap(getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, original in kept:
                setattr(owner, name, original)

    def _marks(self, images: Any) -> tuple[float, ...]:
        with self._device.host():
            return tuple(images.double().flatten(1).sum(1).tolist())

    def _begins(self, original: Any) -> Any:
        def attempt(step: Any, batch: Any, size: int) -> Any:
            self._seen.clear()
            return original(step, batch, size)

        return attempt

    def _sees(self, images_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def wrap(original: Any) -> Any:
            def moved(step: Any, piece: Any) -> Any:
                self._seen.extend(self._marks(images_of(piece)))
                return original(step, piece)

            return moved

        return wrap

    def _step_done(self, original: Any) -> Any:
        def step(cut: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(cut, batch, *args, **kwargs)
            if isinstance(batch, dict):
                self._ended(batch["img"])
            return found

        return step

    def _learnt(self, original: Any) -> Any:
        def learn(learner: Any, batch: Any) -> Any:
            found = original(learner, batch)
            self._ended(batch[0])
            self._link.step_ended()
            return found

        return learn

    def _updates(self, original: Any) -> Any:
        def demand(room: Any) -> None:
            original(room)
            self._link.done.num_updates += 1

        return demand

    def _ended(self, images: Any) -> None:
        whole, done = self._marks(images), self._link.done
        if sorted(self._seen) != sorted(whole):
            done.wrong.append(f"a step of {len(whole)} samples used {len(self._seen)}")
        done.samples.setdefault(self._link.epoch, []).append(whole)
        done.sizes.append(len(whole))


def run(folder: Path, work: Work, fill: Fill | None = None) -> Done:
    """Train once; `fill` says when the card fills up."""
    device = EmulatedDevice(CARD, CARD.memory_bytes)
    link = _Link(folder / "checkpoints", work, device, fill)
    task = task_of(folder, work.settings, work.batch, trainer=work.trainer, rank=work.rank)
    if work.trainer == "yolo":
        asked = 0

        def stop_requested() -> StopMode | None:
            nonlocal asked
            asked += 1
            if asked % (work.num_steps + 1):
                link.step_ended()
            elif work.rank:
                link.epoch_ended()  # nobody reports on this rank
            return None

        link.stop_requested = stop_requested  # type: ignore[method-assign] # per trainer
    trainer = YoloTrainer() if work.trainer == "yolo" else TimmTrainer()
    with _Watch(link, device).on():
        try:
            with device.session():
                trainer.fit(task, device, link)
        except TrainingError as error:
            link.done.error = f"{error.what}: {error.why[0]}"
    link.done.reported, link.done.recuts = link.reported, link.recuts
    return link.done
