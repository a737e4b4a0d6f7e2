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

A batch that fits one piece goes through ultralytics' own forward, untouched. Every batch stays on
the host as the loader gave it; only a piece at a time is moved to the card and made float, so that
the card holds no more of a large batch than a piece. Backward runs here as well, so that a step
that runs out of memory can be repeated in smaller pieces before ultralytics hears of it.

The ranks of a gang are more pieces of the same batch: divisors are summed over all of them, once
in a step, and so are the gradients. (ultralytics' own data-parallel training lets each rank divide
by its own sums, which weighs the objects of a rank that has few of them more.)
"""

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.trainer.checkpointing import checkpoint_yolo, statistics_still
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.microbatch import (
    OBJECT_KEYS,
    PieceLoss,
    cut,
    cut_detection,
    run_pieces,
)
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.step_cut import Pieces, StepCut
from orchestrator.trainer.step_state import StepState, statistics_kept
from orchestrator.trainer.yolo_heads import (
    DIVISORS,
    Divisors,
    Head,
    at_least_one,
    cannot_cut,
    heads_of,
)
from orchestrator.trainer.yolo_whole import Record, Run, WholeBatch, of_all_ranks

__all__ = ["CutStep"]


class CutStep:
    """Stands in for the `forward` of a model in training.

    Args:
        trainer: The ultralytics trainer; its model must not be wrapped or compiled.
        micro_batch: Images per piece at most.
        prepare: Moves a piece to the device and scales its pixels, in place of its dict.
        governor: Cuts smaller where memory runs out; None lets the error through.
        reduction: Of the gradients of a gang; the trainer's `images_of_step` then tells how many
            images all ranks have in the step.
        cut: How; by itself unless it is given.

    Raises:
        ConfigError: E1120, this model's step cannot be cut.
    """

    def __init__(
        self,
        trainer: Any,
        micro_batch: int,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        governor: Governor | None = None,
        reduction: Reduction | None = None,
        cut: StepCut | None = None,
    ) -> None:
        self._trainer = trainer
        self._prepare_alone = prepare
        self._model: nn.Module = trainer.model
        self._whole = trainer.model.forward
        self._micro_batch = micro_batch
        self._cut = cut or StepCut(self._model, micro_batch)
        self._batch = WholeBatch(trainer, reduction)
        self._heads: list[Head] = []
        self._is_classifier = trainer.args.task == "classify"
        self._chance: tuple[Any, ...] | None = None
        self._norms: tuple[nn.Module, ...] = ()
        self._governor = governor
        if governor is not None:
            device = next(self._model.parameters()).device
            self._state = StepState(self._model, device, reduction)
        if trainer.batch_size // max(trainer.world_size, 1) > micro_batch or reduction is not None:
            self._look(micro_batch, trainer.batch_size)

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Loss and loss items of a training batch, or predictions for anything else.

        The loss is detached: its gradients are there already.

        Raises:
            TrainingError: OUT_OF_MEMORY, one image does not fit.
        """
        if not isinstance(batch, dict):
            return self._whole(batch, *args, **kwargs)
        if self._trainer.accumulate != 1:
            raise cannot_cut("gradients are accumulated", self._micro_batch, _images(batch))
        if self._governor is None:
            return self._run_batch(batch, self._micro_batch)
        return self._governor.step(lambda size: self._run_batch(batch, size), self._state)

    def checkpoint(self) -> None:
        """Compute layers again in the backward pass, from the next forward pass on."""
        self._norms = checkpoint_yolo(self._model)

    def _look(self, micro_batch: int, num_images: int) -> None:
        """Find out how the terms of this model's loss are divided, before the first cut."""
        if not self._is_classifier and not self._heads:
            self._heads = heads_of(self._model, micro_batch, num_images)

    def _prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Prepare a piece. With multi_scale a size is drawn: the same one for every piece."""
        if self._chance is not None:
            random.setstate(self._chance)
        return self._prepare_alone(batch)

    def _run_batch(self, batch: dict[str, Any], micro_batch: int) -> tuple[Tensor, Any]:
        num_images = _images(batch)
        if num_images <= micro_batch and not self._batch.is_shared:
            return self._uncut(batch)
        self._batch.begin()
        self._look(micro_batch, num_images)
        self._chance = random.getstate() if self._trainer.args.multi_scale else None
        sizes = self._cut.pieces(num_images, self._batch.num_images(num_images), micro_batch)
        try:
            with self._cut.step():
                if self._is_classifier:
                    return self._classified(batch, sizes)
                return self._detected(batch, sizes)
        finally:
            self._chance = None

    def _uncut(self, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        loss, items = self._whole(self._prepare(dict(batch)))
        self._backward(loss.sum())
        return loss.detach().requires_grad_(), items

    def _gains(self) -> list[float]:
        criterion = self._trainer.model.criterion
        return [1.0] if len(self._heads) == 1 else [criterion.o2m, criterion.o2o]

    def _classified(self, batch: dict[str, Any], sizes: Pieces) -> tuple[Tensor, Any]:
        items: list[dict[str, Tensor]] = []

        def forward(piece: Any) -> PieceLoss:
            loss, detached = self._whole(self._prepare(dict(piece)))
            items.append(detached)
            return PieceLoss(value=loss, divisor=float(piece["img"].shape[0]))

        step = run_pieces(
            sizes.of(batch, cut),
            self._cut.forward(forward, sizes),
            backward=self._backward,
            total=self._batch.num_images(sum(sizes.own)),
            around=self._cut.around(self._batch.around, sizes),
        )
        whole = {
            name: sum(part[name] * w for part, w in zip(items, step.weights, strict=True))
            for name in items[0]
        }
        return step.value.detach().requires_grad_(), whole

    def _detected(self, batch: dict[str, Any], cuts: Pieces) -> tuple[Tensor, Any]:
        """Both ways of running the pieces; see the module's head."""
        keys = set(OBJECT_KEYS) if self._trainer.args.overlap_mask else OBJECT_KEYS | {"masks"}
        pieces = cuts.of(batch, partial(cut_detection, object_keys=keys & batch.keys()))
        records: list[Record] = []
        separable = all(
            len({DIVISORS[name] for name in head.criterion.loss_names}) == 1 for head in self._heads
        )
        # One piece alone tells its divisors in time: its backward comes after them.
        totals = self._totals(pieces, cuts) if not separable and len(pieces) > 1 else None
        sizes = [_images(piece) for piece in pieces]
        num_images = self._batch.num_images(sum(cuts.own))

        def forward(piece: Any) -> PieceLoss:
            runs = self._run(piece)
            share = num_images / sizes[len(records)]
            records.append([(m, dict(head.seen), t.detach() * share) for head, t, m in runs])
            if not separable:
                return self._known(runs, totals or self._batch.divisors_of(records), share)
            return self._unknown(runs, records, share, is_last=len(records) == len(pieces))

        run_pieces(
            pieces,
            self._cut.forward(forward, cuts),
            backward=self._backward,
            total=None if separable else 1.0,
            floor=1.0,
            reference=self._guess(len(batch["cls"]) / len(pieces)) if separable else None,
            parameters=self._model.parameters,
            around=self._cut.around(self._batch.around, cuts),
        )
        terms, items = self._batch.summed(records, self._gains())
        return terms.requires_grad_(), items

    def _guess(self, num_objects: float) -> Tensor:
        """About the divisor of a piece, a power of two: to divide by it loses nothing."""
        # Layers that work together mix gradients of all ranks: then it is the same on all.
        device = next(self._model.parameters()).device if self._cut.is_together else None
        about = self._cut.of_all(torch.tensor([num_objects], device=device))
        return about.clamp(min=1.0).log2().round().exp2()[0]

    def _run(self, piece: Mapping[str, Any]) -> list[Run]:
        batch = self._prepare(dict(piece))
        predictions = self._whole(batch["img"])
        if isinstance(predictions, tuple):
            predictions = predictions[1]
        runs = [(head, *head.run(predictions, batch)) for head in self._heads]
        if self._cut.is_together:
            return of_all_ranks(runs, predictions, is_counted=self._cut.is_counted)
        return runs

    def _known(self, runs: list[Run], totals: list[Divisors], share: float) -> PieceLoss:
        """Every divisor of the whole is known: the value is already the piece's part of it."""
        parts: list[Tensor] = []
        for gain, total, (head, terms, items) in zip(self._gains(), totals, runs, strict=True):
            weights = [
                at_least_one(head.seen[kind]) / at_least_one(total[kind])
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
        divisor, mine = at_least_one(first.seen["scores"]), first.seen["scores"]
        value = terms.sum() * (gains[0] * share)
        whole = [total["scores"] for total in self._batch.divisors_of(records)] if is_last else []
        if is_last:  # what it adds to the pieces before it, with what other ranks have
            mine = whole[0] - sum(record[0][1]["scores"] for record in records[:-1])
        if len(runs) == 2:
            second, terms, _ = runs[1]
            quotient = at_least_one(second.seen["scores"]) / divisor
            if is_last:
                correction = at_least_one(whole[0]) / at_least_one(whole[1])
                quotient = quotient * correction
                gathered = [p.grad for p in self._second_parameters() if p.grad is not None]
                if gathered:
                    torch._foreach_mul_(gathered, correction)
            value = value + terms.sum() * (quotient * gains[1] * share)
        return PieceLoss(value=value, divisor=divisor, share=mine)

    def _second_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self._model.named_parameters() if "one2one" in name]

    def _totals(self, pieces: list[dict[str, Any]], cuts: Pieces) -> list[Divisors]:
        """Run every piece forward without gradients, and sum what each head divides by."""
        seen: list[list[Divisors]] = [[] for _ in self._heads]
        device = next(self._model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.no_grad(), statistics_kept(self._model), torch.random.fork_rng(devices):
            for piece, size in zip(pieces, cuts.own, strict=True):
                with self._cut.piece(size):
                    self._run(piece)
                for parts, head in zip(seen, self._heads, strict=True):
                    parts.append(dict(head.seen))
        torch.clear_autocast_cache()  # weights cast without gradients must not be used below
        return self._batch.divisors(seen)

    def _backward(self, loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False), statistics_still(self._norms):
            self._trainer.scaler.scale(loss).backward()
        torch.clear_autocast_cache()  # weights cast for this piece, with its graph


def _images(batch: Mapping[str, Any]) -> int:
    return int(batch["img"].shape[0])
