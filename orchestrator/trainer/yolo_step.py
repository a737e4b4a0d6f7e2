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
"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from orchestrator.trainer.checkpointing import checkpoint_yolo, statistics_still
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.microbatch import (
    OBJECT_KEYS,
    PieceLoss,
    cut,
    cut_detection,
    even_sizes,
    piece_sizes,
    run_pieces,
)
from orchestrator.trainer.step_state import StepState, statistics_kept
from orchestrator.trainer.yolo_heads import (
    DIVISORS,
    Divisors,
    Head,
    at_least_one,
    cannot_cut,
    heads_of,
    total_of,
    whole_items,
)

__all__ = ["CutStep"]

Run: TypeAlias = tuple[Head, Tensor, dict[str, Tensor]]  # terms with their graph, loss items
Record: TypeAlias = list[tuple[dict[str, Tensor], Divisors, Tensor]]  # of one piece, by head


class CutStep:
    """Stands in for the `forward` of a model in training.

    Args:
        trainer: The ultralytics trainer; its model must not be wrapped or compiled.
        micro_batch: Images per piece at most.
        prepare: Moves a piece to the device and scales its pixels, in place of its dict.
        gradient_factor: Multiplies every gradient: the number of ranks, where they are averaged.
        governor: Cuts smaller where memory runs out; None lets the error through.

    Raises:
        ConfigError: E1120, this model's step cannot be cut.
    """

    def __init__(
        self,
        trainer: Any,
        micro_batch: int,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        gradient_factor: int = 1,
        *,
        governor: Governor | None = None,
    ) -> None:
        self._trainer = trainer
        self._prepare_alone = prepare
        self._model: nn.Module = trainer.model
        self._whole = trainer.model.forward
        self._micro_batch = micro_batch
        self._factor = float(gradient_factor)
        self._heads: list[Head] = []
        self._is_classifier = trainer.args.task == "classify"
        self._chance: tuple[Any, ...] | None = None
        self._norms: tuple[nn.Module, ...] = ()
        self._governor = governor
        if governor is not None:
            self._state = StepState(self._model, next(self._model.parameters()).device)
        if trainer.batch_size // max(trainer.world_size, 1) > micro_batch:
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
        if num_images <= micro_batch:
            return self._uncut(batch)
        self._look(micro_batch, num_images)
        self._chance = random.getstate() if self._trainer.args.multi_scale else None
        sizes_of = piece_sizes if micro_batch == self._micro_batch else even_sizes
        sizes = sizes_of(num_images, micro_batch)
        try:
            if self._is_classifier:
                return self._classified(batch, sizes)
            keys = set(OBJECT_KEYS)
            if not self._trainer.args.overlap_mask:
                keys.add("masks")
            pieces = cut_detection(batch, sizes, object_keys=keys & batch.keys())
            return self._detected(pieces, num_images, int(batch["cls"].shape[0]))
        finally:
            self._chance = None

    def _uncut(self, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        loss, items = self._whole(self._prepare(dict(batch)))
        self._backward(loss.sum())
        return loss.detach().requires_grad_(), items

    def _gains(self) -> list[float]:
        criterion = self._trainer.model.criterion
        return [1.0] if len(self._heads) == 1 else [criterion.o2m, criterion.o2o]

    def _classified(self, batch: dict[str, Any], sizes: tuple[int, ...]) -> tuple[Tensor, Any]:
        items: list[dict[str, Tensor]] = []

        def forward(piece: Any) -> PieceLoss:
            loss, detached = self._whole(self._prepare(dict(piece)))
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
            len({DIVISORS[name] for name in head.criterion.loss_names}) == 1 for head in self._heads
        )
        totals = None if separable else self._totals(pieces)
        sizes = [float(_images(piece)) for piece in pieces]
        # A power of two: what is multiplied by it and divided by it again stays as it was.
        guess = 2.0 ** round(torch.tensor(max(num_objects / len(pieces), 1.0)).log2().item())

        def forward(piece: Any) -> PieceLoss:
            runs = self._run(piece)
            share = num_images / sizes[len(records)]
            records.append([(m, dict(head.seen), t.detach() * share) for head, t, m in runs])
            if totals is not None:
                return self._known(runs, totals, share)
            return self._unknown(runs, records, share, is_last=len(records) == len(pieces))

        run_pieces(
            pieces,
            forward,
            backward=self._backward,
            total=None if totals is None else 1.0,
            floor=1.0,
            reference=guess if totals is None else None,
            parameters=self._model.parameters,
        )
        terms, items = self._summed(records)
        return terms.requires_grad_(), items

    def _run(self, piece: Mapping[str, Any]) -> list[Run]:
        batch = self._prepare(dict(piece))
        predictions = self._whole(batch["img"])
        if isinstance(predictions, tuple):
            predictions = predictions[1]
        return [(head, *head.run(predictions, batch)) for head in self._heads]

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
        divisor = at_least_one(first.seen["scores"])
        value = terms.sum() * (gains[0] * share)
        if len(runs) == 2:
            second, terms, _ = runs[1]
            quotient = at_least_one(second.seen["scores"]) / divisor
            if is_last:
                whole = [
                    at_least_one(sum(record[h][1]["scores"] for record in records)) for h in (0, 1)
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
        seen: list[list[Divisors]] = [[] for _ in self._heads]
        device = next(self._model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.no_grad(), statistics_kept(self._model), torch.random.fork_rng(devices):
            for piece in pieces:
                self._run(piece)
                for parts, head in zip(seen, self._heads, strict=True):
                    parts.append(dict(head.seen))
        torch.clear_autocast_cache()  # weights cast without gradients must not be used below
        return [total_of(parts) for parts in seen]

    def _summed(self, records: list[Record]) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole batch's loss terms, and its loss items: the last head's, as reported."""
        whole: list[Tensor] = []
        items: dict[str, Tensor] = {}
        for number, gain in enumerate(self._gains()):
            pieces = [record[number] for record in records]
            total = total_of(seen for _, seen, _ in pieces)
            weights = [
                {kind: at_least_one(seen[kind]) / at_least_one(total[kind]) for kind in seen}
                for _, seen, _ in pieces
            ]
            kinds = [DIVISORS[name] for name in pieces[0][0]]
            for (_, _, terms), weight in zip(pieces, weights, strict=True):
                factors = [weight[kind] * gain for kind in kinds]
                whole.append(_sum_of(t * f for t, f in zip(terms.unbind(), factors, strict=True)))
            items = whole_items((terms, seen) for terms, seen, _ in pieces)
        return _sum_of(whole), items

    def _backward(self, loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False), statistics_still(self._norms):
            self._trainer.scaler.scale(loss * self._factor).backward()
        torch.clear_autocast_cache()  # weights cast for this piece, with its graph


def _sum_of(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def _images(batch: Mapping[str, Any]) -> int:
    return int(batch["img"].shape[0])
