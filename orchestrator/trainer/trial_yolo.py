"""Tries settings of a YOLO model on its pictures, through ultralytics' own trainer."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch.utils.data import DataLoader

from orchestrator.trainer.compare import compared
from orchestrator.trainer.trial import Found, Way, tried
from orchestrator.trainer.trial_loading import fewest_workers, parts_of, seconds_of_batch
from orchestrator.trainer.yolo_apart import apart, can_halve
from orchestrator.trainer.yolo_model import trainer_of
from orchestrator.types import Scalar, Seconds

__all__ = ["results"]

_ROUNDS = 9  # of a forward and a backward pass each
_PICTURES = 32  # that reading and augmenting are timed with


def results(order: dict[str, Any]) -> Found:
    """Try what is asked for: `choices` tells names, and all that ultralytics is given."""
    with tempfile.TemporaryDirectory(prefix="orc-trial-") as folder, apart(folder):
        yield from _Trial(order, folder).results()


class _Trial:
    """Measures on the device of the run.

    Args:
        order: names, micro_batch, workers, device, and the arguments of ultralytics' trainer.
        folder: Where it may write.
    """

    def __init__(self, order: dict[str, Any], folder: str) -> None:
        given = dict(order["arguments"])
        self._order, self._size = order, int(order["micro_batch"])
        given |= {"project": folder, "save_dir": folder, "cache": False, "workers": 0}
        given |= {"batch": self._size, "nbs": self._size}
        self._trainer = trainer_of(given["task"])(overrides=given)
        self._trainer.setup_model()
        self._trainer.model = self._trainer.model.to(self._trainer.device)
        self._trainer.set_model_attributes()
        self._found: dict[str, Scalar] = {}
        self._all = self._pictures(None)
        self._collate: Callable[[list[Any]], Any] = getattr(
            self._all, "collate_fn", torch.utils.data.default_collate
        )

    def results(self) -> Found:
        """Try one after the other; later ones build on what was found."""
        ways: dict[str, Way] = {
            "channels_last": self._channels_last,
            "cache": self._cache,
            "workers": self._workers,
        }
        return tried(self._order["names"], ways, self._found)

    def _channels_last(self) -> tuple[Scalar, str]:
        if self._trainer.device.type != "cuda":
            return False, "ultralytics has it on CUDA cards only"
        verdict = compared(
            self._step(channels_last=False), self._step(channels_last=True), rounds=_ROUNDS
        )
        return verdict.is_faster, str(verdict)

    def _cache(self) -> tuple[Scalar, str]:
        def reading(pictures: Any) -> Callable[[], None]:
            def read() -> None:
                for index in range(len(pictures)):
                    pictures[index]

            return read

        plain = reading(self._pictures(_PICTURES))
        verdict = compared(plain, reading(self._pictures(_PICTURES, cache="ram")), rounds=5)
        return ("ram" if verdict.is_faster else "false"), str(verdict)

    def _workers(self) -> tuple[Scalar, str]:
        is_on_card = self._trainer.device.type == "cuda"
        step = self._step(channels_last=bool(self._found.get("channels_last", is_on_card)))
        return fewest_workers(step, self._loading, int(self._order["workers"]))

    def _loading(self, workers: int) -> Seconds:
        loader: DataLoader[Any] = DataLoader(
            self._all,
            batch_sampler=parts_of(len(self._all), self._size, workers),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=self._collate,
        )
        return seconds_of_batch(loader)

    def _pictures(self, most: int | None, *, cache: str | bool = False) -> Any:
        """The training pictures as ultralytics augments them; the first of them where `most`."""
        trainer, arguments = self._trainer, self._trainer.args
        whole, arguments.cache = arguments.fraction, cache
        if most is not None:
            arguments.fraction = whole * min(1.0, most / len(self._all))
        found = trainer.build_dataset(trainer.data["train"], "train", self._size)
        arguments.fraction, arguments.cache = whole, False
        return found

    def _step(self, *, channels_last: bool) -> Callable[[], None]:
        """A function that runs forward and backward on one batch, and returns when it is done."""
        trainer = self._trainer
        first = [self._all[number % len(self._all)] for number in range(self._size)]
        batch = trainer.preprocess_batch(self._collate(first))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = deepcopy(trainer.model).to(memory_format=layout).train()
        halves = bool(trainer.args.amp) and can_halve(trainer.device)
        dtype = torch.bfloat16 if trainer.args.amp == "bf16" else torch.float16

        def step() -> None:
            model.zero_grad(set_to_none=True)
            with torch.autocast(trainer.device.type, dtype=dtype, enabled=halves):
                loss, _ = model(batch)
            loss.sum().backward()
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()

        return step
