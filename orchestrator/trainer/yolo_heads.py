"""The heads of a YOLO model's loss, and what each term of it is divided by."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError

__all__ = [
    "DIVISORS",
    "Divisors",
    "Head",
    "at_least_one",
    "cannot_cut",
    "heads_of",
    "total_of",
    "whole_items",
]

# What each term of a loss is divided by in utils/loss.py of ultralytics 8.4.
DIVISORS: Mapping[str, str] = {
    "box_loss": "scores",
    "cls_loss": "scores",
    "dfl_loss": "scores",
    "l1_loss": "scores",
    "angle_loss": "scores",
    "seg_loss": "anchors",
    "pose_loss": "anchors",
    "kobj_loss": "anchors",
    "rle_loss": "points",
    "sem_loss": "images",
}

Divisors: TypeAlias = dict[str, Tensor | float]


def cannot_cut(reason: str, micro_batch: int, batch: int) -> ConfigError:
    """The error for a step that has to be cut and cannot be."""
    return ConfigError(
        f"a step of {batch} images cannot be cut into pieces of {micro_batch}",
        code="E1120",
        why=(reason,),
        fix=("a larger card, a smaller batch, or a setting that can be cut",),
    )


@dataclass(slots=True)
class Head:
    """One criterion over one set of predictions, with a record of what it divided by."""

    criterion: Any
    key: str | None  # of the predictions: one2many, one2one, or None for the only head
    seen: Divisors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.criterion.assigner.register_forward_hook(self._assigned)
        flow = getattr(self.criterion, "rle_loss", None)
        if flow is not None:
            flow.register_forward_hook(self._flowed)

    def _assigned(self, module: nn.Module, given: object, found: tuple[Tensor, ...]) -> None:
        del module, given
        self.seen["scores"] = found[2].sum()
        self.seen["anchors"] = found[3].sum().float()
        self.seen.setdefault("points", 0.0)

    def _flowed(self, module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        del module, found
        self.seen["points"] = float(given[1].shape[0])

    def run(self, predictions: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss terms (times the number of images) and the detached terms by name."""
        self.seen.clear()
        mine = predictions if self.key is None else predictions[self.key]
        terms, items = self.criterion.loss(mine, batch)
        self.seen["images"] = float(batch["img"].shape[0])
        if "sem_loss" in items and not bool(self.seen["anchors"]):
            return self._with_background(mine, terms, items)
        return terms, items

    def _with_background(
        self, predictions: Any, terms: Tensor, items: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The semantic term of pictures without objects.

        ultralytics leaves it out where no anchor of the batch is assigned; in a batch with some,
        pictures without objects count as background.
        """
        proto = predictions["proto"]
        if not isinstance(proto, tuple):
            return terms, items
        criterion = self.criterion
        value = criterion.bcedice_loss(proto[1], torch.zeros_like(proto[1])) * criterion.hyp.box
        added = torch.zeros_like(terms)
        added[list(items).index("sem_loss")] = 1.0
        return terms + added * value * self.seen["images"], items | {"sem_loss": value.detach()}

    def kinds(self, names: Mapping[str, Tensor]) -> list[str]:
        """What each term is divided by, in their order."""
        return [DIVISORS[name] for name in names]


def total_of(parts: Iterable[Divisors]) -> Divisors:
    """What the terms of the whole batch are divided by.

    Without a single assigned anchor in the batch the semantic term does not count at all.
    """
    total: Divisors = {}
    for seen in parts:
        for kind, value in seen.items():
            total[kind] = total.get(kind, 0.0) + value
    if not bool(total["anchors"]):
        total["images"] = math.inf
    return total


def whole_items(
    pieces: Iterable[tuple[Mapping[str, Tensor], Divisors]], total: Divisors | None = None
) -> dict[str, Tensor]:
    """The loss items of a batch from those of its pieces, each with what its terms divide by.

    With the `total` of a batch that other ranks share: this rank's part of its loss items.
    """
    parts = list(pieces)
    total = total_of(seen for _, seen in parts) if total is None else total
    return {
        name: torch.stack(
            [
                items[name] * (at_least_one(seen[kind]) / at_least_one(total[kind]))
                for items, seen in parts
            ]
        ).sum()
        for name, kind in ((name, DIVISORS[name]) for name in parts[0][0])
    }


def at_least_one(value: Any) -> Any:
    """A divisor as ultralytics clamps it."""
    return value.clamp(min=1.0) if isinstance(value, Tensor) else max(value, 1.0)


def heads_of(model: Any, micro_batch: int, batch: int) -> list[Head]:
    """The heads of a model's criterion, each with its record; the criterion is made if need be.

    Raises:
        ConfigError: E1120, the criterion or one of its terms is not known.
    """
    if getattr(model, "criterion", None) is None:
        model.criterion = model.init_criterion()
    criterion = model.criterion
    if hasattr(criterion, "o2m") and hasattr(criterion, "one2one"):
        heads = [Head(criterion.one2many, "one2many"), Head(criterion.one2one, "one2one")]
    elif hasattr(criterion, "assigner"):
        heads = [Head(criterion, None)]
    else:
        kind = type(criterion).__name__
        raise cannot_cut(f"the loss {kind} is not one of those known", micro_batch, batch)
    for head in heads:
        if unknown := [name for name in head.criterion.loss_names if name not in DIVISORS]:
            terms = ", ".join(unknown)
            raise cannot_cut(f"the loss terms {terms} are not known", micro_batch, batch)
    return heads
