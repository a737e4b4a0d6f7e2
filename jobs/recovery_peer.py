"""ultralytics' own trainer on a card that fills up: what the recovery bench compares with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.recovery_runs import Fill, Work
from jobs.recovery_work import CARD
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.yolo_apart import apart

__all__ = ["Peer", "peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How it ended: its batch, epochs completed, and the error if it died."""

    batch: int
    epochs: int
    error: str

    def __str__(self) -> str:
        """For people."""
        return f"batch {self.batch}, {self.epochs} epochs, {self.error or 'ended'}"


class _Cue:
    """Fills the card when its moment comes, and empties it some steps later."""

    def __init__(self, fill: Fill, device: EmulatedDevice) -> None:
        self._fill, self._device = fill, device
        self.epoch, self._step, self._left = 1, 0, 0

    def hear(self, event: str) -> None:
        """Take a callback of ultralytics."""
        if event == "on_fit_epoch_end":
            self.epoch += 1
        elif event in ("on_train_batch_start", "on_train_epoch_end"):
            self._step = 0 if event == "on_train_epoch_end" else self._step + 1
            self._act()

    def _act(self) -> None:
        if (self.epoch, self._step) == (self._fill.epoch, self._fill.step):
            self._device.set_foreign(CARD.memory_bytes - self._fill.room)
            self._left = self._fill.lasts
        elif self._left:
            self._left -= 1
            if not self._left:
                self._device.set_foreign(0)


def peer(folder: Path, work: Work, fill: Fill) -> Peer:
    """Train with ultralytics alone; nothing of ours but the card that fills up."""
    folder.mkdir(parents=True)
    device = EmulatedDevice(CARD, CARD.memory_bytes)
    cue, settings, batch = _Cue(fill, device), work.settings, work.batch.effective_batch
    with apart(str(folder)):
        from ultralytics.models.yolo.detect import DetectionTrainer

        class Plain(DetectionTrainer):  # type: ignore[misc, unused-ignore] # untyped
            def setup_model(self) -> Any:
                with device.host():
                    return super().setup_model()

            def run_callbacks(self, event: str) -> None:
                super().run_callbacks(event)
                cue.hear(event)

        trainer = Plain(
            overrides={
                "model": settings.model,
                "data": settings.data,
                "imgsz": settings.imgsz,
                "epochs": settings.epochs,
                "batch": batch,
                "nbs": batch,
                "optimizer": settings.optimizer,
                "close_mosaic": 0,
                "workers": 0,
                "device": "cpu",
                "plots": False,
                "project": str(folder),
                "name": "run",
            }
        )
        error = ""
        try:
            with device.session():
                trainer.train()
        except RuntimeError as fault:
            error = f"died: {type(fault).__name__}"
    epochs = min(cue.epoch - 1, settings.epochs)
    return Peer(batch=int(trainer.batch_size), epochs=epochs, error=error)
