"""Tries settings of a timm classifier on noise and on its pictures."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.trainer.classifier import make_model, make_optimizer, make_transforms, precision
from orchestrator.trainer.compare import compared
from orchestrator.trainer.loading import PictureFolder, picture_loader
from orchestrator.trainer.options_timm import TimmOptions, timm_options
from orchestrator.trainer.pictures import find_pictures
from orchestrator.trainer.trial import Found, Way, tried
from orchestrator.trainer.trial_loading import fewest_workers, parts_of, seconds_of_batch
from orchestrator.types import Scalar, TrainSettings

__all__ = ["results"]

_ROUNDS = 9  # of two steps each
_PICTURES = 32  # that reading and decoding are timed with


class _Trial:
    """Measures what it is asked, on the device of the run.

    Args:
        order: What `choices` tells: names, model, sizes, data, options, device.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._device = torch.device(order["device"])
        self._settings = TrainSettings(
            model=order["model"],
            data=order["data"],
            imgsz=order["imgsz"],
            epochs=1,
            amp=order["amp"],
            workers=order["workers"],
            seed=order["seed"],
            options=order["options"],
        )
        self._options: TimmOptions = timm_options(order["options"])
        self._size = int(order["micro_batch"])
        self._found: dict[str, Scalar] = {}

    def results(self) -> Found:
        """Try one after the other; later ones build on what was found."""
        ways: dict[str, Way] = {
            "channels_last": self._channels_last,
            "compile": self._compile,
            "pin_memory": self._pin_memory,
            "cache": self._cache,
            "workers": self._workers,
        }
        return tried(self._order["names"], ways, self._found)

    def _channels_last(self) -> tuple[Scalar, str]:
        verdict = compared(self._step(), self._step(channels_last=True), rounds=_ROUNDS)
        return verdict.is_faster, str(verdict)

    def _compile(self) -> tuple[Scalar, str]:
        layout = bool(self._found.get("channels_last", self._options.channels_last))
        plain = self._step(channels_last=layout)
        begin = time.perf_counter()
        fast = self._step(channels_last=layout, compiles=True)
        fast()
        took = time.perf_counter() - begin
        verdict = compared(plain, fast, rounds=_ROUNDS)
        return verdict.is_faster, f"{verdict}; compiling took {took:.0f} s"

    def _pin_memory(self) -> tuple[Scalar, str]:
        if self._device.type != "cuda":
            return False, "there is no card to copy to"
        pageable = torch.zeros(self._size, 3, self._settings.imgsz, self._settings.imgsz)
        pinned = pageable.pin_memory()

        def copied(source: torch.Tensor) -> Callable[[], None]:
            def copy() -> None:
                source.to(self._device, non_blocking=True)
                torch.cuda.synchronize()

            return copy

        verdict = compared(copied(pageable), copied(pinned), rounds=_ROUNDS)
        return verdict.is_faster, str(verdict)

    def _cache(self) -> tuple[Scalar, str]:
        plain, kept = (self._pictures(_PICTURES) for _ in range(2))
        kept.keep_decoded(threads=4)

        def reading(pictures: PictureFolder) -> Callable[[], None]:
            def read() -> None:
                for index in range(len(pictures)):
                    pictures[0, index]

            return read

        verdict = compared(reading(plain), reading(kept), rounds=5)
        return ("ram" if verdict.is_faster else "false"), str(verdict)

    def _workers(self) -> tuple[Scalar, str]:
        step = self._step(channels_last=bool(self._found.get("channels_last", False)))
        return fewest_workers(step, self._loading, int(self._order["workers"]))

    def _loading(self, workers: int) -> float:
        pictures = self._pictures(None)
        parts = [
            [(0, number) for number in part]
            for part in parts_of(len(pictures), self._size, workers)
        ]
        return seconds_of_batch(picture_loader(pictures, parts, workers=workers, pin_memory=False))

    def _pictures(self, most: int | None) -> PictureFolder:
        sets, _ = find_pictures(Path(self._settings.data).expanduser(), self._settings.seed)
        transform, _ = make_transforms(self._model(), self._settings, self._options)
        share = 1.0 if most is None else min(1.0, most / len(sets))
        return PictureFolder(sets.part(share), transform, self._settings.seed)

    def _model(self) -> nn.Module:
        return make_model(self._settings, self._options, self._order["num_classes"])

    def _step(self, *, channels_last: bool = False, compiles: bool = False) -> Callable[[], None]:
        """A function that takes one optimizer step on noise, and returns when it is done."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = self._model().to(self._device).to(memory_format=layout).train()
        optimizer = make_optimizer(model, self._settings, self._options)
        size = self._settings.imgsz
        images = torch.randn(self._size, 3, size, size, device=self._device)
        images = images.to(memory_format=layout)
        labels = torch.randint(0, self._order["num_classes"], (self._size,), device=self._device)
        dtype = precision(self._settings.amp, self._device)
        compute: Any = torch.compile(model) if compiles else model

        def step() -> None:
            optimizer.zero_grad()
            is_half = dtype is not torch.float32
            with torch.autocast(
                self._device.type, dtype=dtype if is_half else None, enabled=is_half
            ):
                logits = compute(images)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            if self._device.type == "cuda":
                torch.cuda.synchronize()

        return step


def results(order: dict[str, Any]) -> Found:
    """Try what is asked for."""
    return _Trial(order).results()
