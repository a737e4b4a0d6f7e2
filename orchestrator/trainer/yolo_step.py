"""The cut step of ultralytics: a batch runs in pieces whose gradients are those of the whole.

ultralytics multiplies a loss by the number of images and divides its terms by different things:
box, class, distance and angle by the sum of the assigned target scores, masks and key points by
the number of assigned anchors, the flow term of pose by the number of visible key points. So

    whole term = sum over pieces of   N / n_p * max(d_p, 1) / max(sum of d_p, 1)   * term of p

with n_p images and divisor d_p in piece p, N images in the batch. d_p comes from the assigner
(`utils/tal.py`), whose output a hook reads; it is known after a piece's forward. Three ways:

* one divisor (detect, obb): pieces run once; earlier gradients are corrected before the last
  backward (`microbatch.run_pieces`);
* one divisor for each of two heads (yolo26): the same, since the second head reads detached
  features: no parameter gets gradients from both;
* several divisors (segment, pose): the pieces run forward once more beforehand, without
  gradients, to learn the divisors. This costs about a third more time.

A batch that fits one piece goes through ultralytics' own code, untouched.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.trainer.microbatch import (
    OBJECT_KEYS,
    PieceLoss,
    cut,
    cut_detection,
    piece_sizes,
    run_pieces,
)

__all__ = ["CutStep", "cannot_cut"]

# What each term of a loss is divided by in utils/loss.py of ultralytics 8.4.
_DIVISORS: Mapping[str, str] = {
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
class _Head:
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
        return terms, items

    def kinds(self, names: Mapping[str, Tensor]) -> list[str]:
        """What each term is divided by, in their order."""
        return [_DIVISORS[name] for name in names]


Run: TypeAlias = tuple[_Head, Tensor, dict[str, Tensor]]  # terms with their graph, loss items
Record: TypeAlias = list[tuple[dict[str, Tensor], Divisors]]  # of one piece, by head


class CutStep:
    """Stands in for the `forward` of a model in training.

    Args:
        trainer: The ultralytics trainer; its model must not be wrapped or compiled.
        micro_batch: Images per piece at most.
        gradient_factor: Multiplies every gradient: the number of ranks, where they are averaged.

    Raises:
        ConfigError: E1120, this model's step cannot be cut.
    """

    def __init__(self, trainer: Any, micro_batch: int, gradient_factor: int = 1) -> None:
        self._trainer = trainer
        self._model: nn.Module = trainer.model
        self._whole = trainer.model.forward
        self._micro_batch = micro_batch
        self._factor = float(gradient_factor)
        self._heads: list[_Head] = []
        self._kinds: list[list[str]] | None = None
        self._is_classifier = trainer.args.task == "classify"
        self._limit = trainer.batch_size // max(trainer.world_size, 1)
        if self._limit > micro_batch:
            self._find_heads()

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Loss and loss items of a training batch, or predictions for anything else."""
        if not isinstance(batch, dict):
            return self._whole(batch, *args, **kwargs)
        num_images = int(batch["img"].shape[0])
        if num_images <= self._micro_batch:
            return self._whole(batch, *args, **kwargs)
        if self._trainer.accumulate != 1:
            raise cannot_cut("gradients are accumulated", self._micro_batch, num_images)
        sizes = piece_sizes(num_images, self._micro_batch)
        if self._is_classifier:
            return self._classified(batch, sizes)
        keys = set(OBJECT_KEYS)
        if not self._trainer.args.overlap_mask:
            keys.add("masks")
        pieces = cut_detection(batch, sizes, object_keys=keys & batch.keys())
        return self._detected(pieces, num_images, int(batch["cls"].shape[0]))

    def _find_heads(self) -> None:
        if self._is_classifier:
            return
        model = self._trainer.model
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
        criterion = model.criterion
        if hasattr(criterion, "o2m") and hasattr(criterion, "one2one"):
            self._heads = [
                _Head(criterion.one2many, "one2many"),
                _Head(criterion.one2one, "one2one"),
            ]
        elif hasattr(criterion, "assigner"):
            self._heads = [_Head(criterion, None)]
        else:
            raise cannot_cut(
                f"the loss {type(criterion).__name__} is not one that is known how to cut",
                self._micro_batch,
                self._limit,
            )
        for head in self._heads:
            if unknown := [n for n in head.criterion.loss_names if n not in _DIVISORS]:
                raise cannot_cut(
                    f"the loss terms {', '.join(unknown)} are not known",
                    self._micro_batch,
                    self._limit,
                )

    def _gains(self) -> list[float]:
        criterion = self._trainer.model.criterion
        return [1.0] if len(self._heads) == 1 else [criterion.o2m, criterion.o2o]

    def _classified(self, batch: dict[str, Any], sizes: tuple[int, ...]) -> tuple[Tensor, Any]:
        items: list[dict[str, Tensor]] = []

        def forward(piece: Any) -> PieceLoss:
            loss, detached = self._whole(piece)
            items.append(detached)
            return PieceLoss(value=loss, divisor=float(piece["img"].shape[0]))

        step = run_pieces(cut(batch, sizes), forward, backward=self._backward, total=sum(sizes))
        whole = {
            name: sum(part[name] * w for part, w in zip(items, step.weights, strict=True))
            for name in items[0]
        }
        return step.value.detach().requires_grad_(), whole

    def _detected(
        self, pieces: list[dict[str, object]], num_images: int, num_objects: int
    ) -> tuple[Tensor, Any]:
        """Both ways of running the pieces; see the module's head."""
        records: list[Record] = []
        separable = all(
            len({_DIVISORS[name] for name in head.criterion.loss_names}) == 1
            for head in self._heads
        )
        totals = None if separable else self._totals(pieces)
        sizes = [float(_images(piece)) for piece in pieces]
        # A power of two: what is multiplied by it and divided by it again stays as it was.
        guess = 2.0 ** round(torch.tensor(max(num_objects / len(pieces), 1.0)).log2().item())

        def forward(piece: Any) -> PieceLoss:
            runs = self._run(piece)
            records.append([(items, dict(head.seen)) for head, _, items in runs])
            share = num_images / sizes[len(records) - 1]
            if totals is not None:
                return self._known(runs, totals, share)
            return self._unknown(runs, records, share, is_last=len(records) == len(pieces))

        step = run_pieces(
            pieces,
            forward,
            backward=self._backward,
            total=None if totals is None else 1.0,
            floor=1.0,
            reference=guess if totals is None else None,
            parameters=self._model.parameters,
        )
        return step.value.detach().requires_grad_(), self._items(records)

    def _run(self, piece: Mapping[str, Any]) -> list[Run]:
        predictions = self._whole(piece["img"])
        if isinstance(predictions, tuple):
            predictions = predictions[1]
        return [(head, *head.run(predictions, piece)) for head in self._heads]

    def _known(self, runs: list[Run], totals: list[Divisors], share: float) -> PieceLoss:
        """Every divisor of the whole is known: the value is already the piece's part of it."""
        parts: list[Tensor] = []
        for gain, total, (head, terms, items) in zip(self._gains(), totals, runs, strict=True):
            weights = [
                _at_least_one(head.seen[kind]) / _at_least_one(total[kind])
                for kind in head.kinds(items)
            ]
            parts.extend(
                term * (weight * gain * share)
                for term, weight in zip(terms.unbind(), weights, strict=True)
            )
        return PieceLoss(value=torch.stack(parts).sum(), divisor=1.0)

    def _unknown(
        self, runs: list[Run], records: list[Record], share: float, *, is_last: bool
    ) -> PieceLoss:
        """One divisor a head. The first head's is what `run_pieces` knows; the second's differs.

        The second head's terms carry the quotient of the two, and what its parameters have
        gathered is corrected by the quotient of the totals when those are known.
        """
        gains = self._gains()
        first, terms, _ = runs[0]
        divisor = _at_least_one(first.seen["scores"])
        value = terms.sum() * (gains[0] * share)
        if len(runs) == 2:
            second, terms, _ = runs[1]
            quotient = _at_least_one(second.seen["scores"]) / divisor
            if is_last:
                whole = [
                    _at_least_one(sum(piece[h][1]["scores"] for piece in records)) for h in (0, 1)
                ]
                correction = whole[0] / whole[1]
                quotient = quotient * correction
                mine = [p.grad for p in self._second_parameters() if p.grad is not None]
                if mine:
                    torch._foreach_mul_(mine, correction)
            value = value + terms.sum() * (quotient * gains[1] * share)
        return PieceLoss(value=value, divisor=divisor, share=first.seen["scores"])

    def _second_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self._model.named_parameters() if "one2one" in name]

    def _totals(self, pieces: list[dict[str, object]]) -> list[Divisors]:
        """Run every piece forward without gradients, and sum what each head divides by."""
        totals: list[Divisors] = [{} for _ in self._heads]
        device = next(self._model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.no_grad(), _statistics_kept(self._model), torch.random.fork_rng(devices):
            for piece in pieces:
                self._run(piece)
                for total, head in zip(totals, self._heads, strict=True):
                    for kind, value in head.seen.items():
                        total[kind] = total.get(kind, 0.0) + value
        torch.clear_autocast_cache()  # weights cast without gradients must not be used below
        return totals

    def _items(self, records: list[Record]) -> dict[str, Tensor]:
        """The loss items of the whole batch, from the last head, as ultralytics reports them."""
        last = [piece[-1] for piece in records]
        total: Divisors = {}
        for _, seen in last:
            for kind, value in seen.items():
                total[kind] = total.get(kind, 0.0) + value
        items: dict[str, Tensor] = {}
        for name in last[0][0]:
            kind = _DIVISORS[name]
            parts = [
                part[name] * (_at_least_one(seen[kind]) / _at_least_one(total[kind]))
                for part, seen in last
            ]
            items[name] = torch.stack(parts).sum()
        return items

    def _backward(self, loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            self._trainer.scaler.scale(loss * self._factor).backward()
        torch.clear_autocast_cache()  # weights cast for this piece, with its graph


def _images(piece: Mapping[str, Any]) -> int:
    return int(piece["img"].shape[0])


def _at_least_one(value: Any) -> Any:
    return value.clamp(min=1.0) if isinstance(value, Tensor) else max(value, 1.0)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch statistics are used as in training, but not averaged into the running ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [m for m in norms if m.training and m.track_running_stats]
    for module in tracked:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracked:
            module.track_running_stats = True
