"""Cutting a step: a batch becomes pieces, and their gradients add up to the whole batch's.

A loss that is a sum over samples (or boxes) divided by a divisor obeys

    whole = sum_i value_i * divisor_i / total        total = max(sum_i share_i, floor)

so the gradients of a step are those of its pieces, each weighted by `divisor_i / total`. For a
mean over samples the divisor is the piece's size and the total is known beforehand. For detection
the divisor (the sum of assigned target scores) is known only after the piece's forward: then the
pieces before the last are weighted relative to a reference, which keeps scaled half-precision
gradients in range, and what they accumulated is multiplied by `reference / total` once, between
the last forward and the last backward. At that place the total is known, and a data-parallel
reduction, which the last backward starts, already sees the right gradients.

What no cut can keep: the batch statistics of BatchNorm and the masks of dropout see the piece. (The
running statistics keep their pace: `norm_pace`.)
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    "OBJECT_KEYS",
    "PieceLoss",
    "StepLoss",
    "cut",
    "cut_detection",
    "even_sizes",
    "piece_sizes",
    "run_pieces",
]

Piece = TypeVar("Piece")

OBJECT_KEYS = frozenset({"batch_idx", "bboxes", "cls", "keypoints"})
"""Keys of an ultralytics batch whose rows are objects, not images.

`masks` is one of them only with `overlap_mask=False`; pass it in that case.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceLoss:
    """The loss of one piece: a scalar `value` that is a sum divided by `divisor` (> 0).

    `share` is what the piece adds to the divisor of the whole, where that differs from `divisor`
    (a divisor clamped from below adds what it was before the clamp). Tensors stay on the device.
    """

    value: Tensor
    divisor: Tensor | float
    share: Tensor | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """The loss of the whole batch, detached, and the weight of each piece in it.

    `total` is the divisor of the whole; divided by the number of pieces it is a good `reference`
    for the next step. Everything that was a tensor on the device still is: nothing waited for it.
    """

    value: Tensor
    weights: tuple[Tensor | float, ...]
    total: Tensor | float


def piece_sizes(num_samples: int, micro_batch: int) -> tuple[int, ...]:
    """Sizes of the pieces of `num_samples`, each at most `micro_batch`; the last may be smaller.

    Raises:
        ValueError: A number is below 1.
    """
    if num_samples < 1 or micro_batch < 1:
        raise ValueError(f"cannot cut {num_samples} samples into pieces of {micro_batch}")
    full, rest = divmod(num_samples, micro_batch)
    return (micro_batch,) * full + ((rest,) if rest else ())


def even_sizes(num_samples: int, micro_batch: int) -> tuple[int, ...]:
    """As many pieces as `piece_sizes` makes, of sizes that differ by one at most.

    A step that is cut unasked keeps away from pieces of one sample, from which BatchNorm cannot
    learn where features are 1 x 1.

    Raises:
        ValueError: A number is below 1.
    """
    number = len(piece_sizes(num_samples, micro_batch))
    least, rest = divmod(num_samples, number)
    return (least + 1,) * rest + (least,) * (number - rest)


def cut(batch: object, sizes: Sequence[int]) -> list[object]:
    """Cut a batch of samples into pieces of these sizes, in order, without a copy.

    Args:
        batch: A tensor (N, ...), or a dict, list or tuple of batches. Values that have no sample
            axis (numbers, texts, None, 0-d tensors) go to every piece.
        sizes: Samples per piece; they add up to N.

    Returns:
        One batch of the same structure per size; tensors are views of the original.

    Raises:
        ValueError: A tensor's first axis is not the sum of the sizes.
    """
    num_samples = sum(sizes)
    if isinstance(batch, Tensor) and batch.ndim:
        if batch.shape[0] != num_samples:
            raise ValueError(f"a tensor {tuple(batch.shape)} cannot be cut into {tuple(sizes)}")
        return list(batch.split(list(sizes)))
    if isinstance(batch, Mapping):
        columns = {key: cut(value, sizes) for key, value in batch.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(len(sizes))]
    if isinstance(batch, list | tuple):
        if len(batch) == num_samples and not any(isinstance(x, Tensor) for x in batch):
            return _slices(batch, sizes)  # one text or number per sample
        parts = [cut(value, sizes) for value in batch]
        return [type(batch)(part[i] for part in parts) for i in range(len(sizes))]
    return [batch] * len(sizes)


def cut_detection(
    batch: Mapping[str, object],
    sizes: Sequence[int],
    *,
    object_keys: Collection[str] = OBJECT_KEYS,
) -> list[dict[str, object]]:
    """Cut an ultralytics batch by images: objects follow their image, and are renumbered.

    Args:
        batch: `img` (N, C, H, W); `batch_idx` (M,) holds the image of each object, 0 to N - 1;
            values under `object_keys` have M rows; other tensors and sequences have N.
        sizes: Images per piece; they add up to N.
        object_keys: Keys whose rows are objects.

    Returns:
        One batch per size, where `batch_idx` counts from 0 within the piece. A piece without
        objects has tensors of no rows.

    Raises:
        ValueError: Numbers of rows do not agree.
    """
    owner = batch["batch_idx"]
    assert isinstance(owner, Tensor)
    objects = {key: value for key, value in batch.items() if key in object_keys}
    for key, value in objects.items():
        if not isinstance(value, Tensor) or value.shape[0] != owner.shape[0]:
            raise ValueError(f"{key} does not have the {owner.shape[0]} rows of batch_idx")
    images = {key: value for key, value in batch.items() if key not in object_keys}
    pieces: list[dict[str, object]] = []
    begin = 0
    for size, part in zip(sizes, cut(images, sizes), strict=True):
        assert isinstance(part, dict)
        flat = owner.reshape(-1)
        rows = ((flat >= begin) & (flat < begin + size)).nonzero().reshape(-1)
        for key, value in objects.items():
            assert isinstance(value, Tensor)
            part[key] = value.index_select(0, rows)
        part["batch_idx"] = owner.index_select(0, rows) - begin
        pieces.append(part)
        begin += size
    return pieces


def run_pieces(  # noqa: PLR0913 - each one is a hook of a training loop, all but two optional
    pieces: Sequence[Piece],
    forward: Callable[[Piece], PieceLoss],
    *,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
    total: float | None = None,
    floor: float = 0.0,
    reference: Tensor | float | None = None,
    parameters: Callable[[], Iterable[Tensor]] | None = None,
    around: Callable[[bool], AbstractContextManager[object]] | None = None,
) -> StepLoss:
    """Run a step piece by piece: forward, weighted loss, backward at once.

    Afterwards the gradients are those of the whole batch's loss. They must be None or zero
    before, unless `total` is given. No value is copied to the host.

    Args:
        pieces: What `forward` takes, at least one.
        forward: Computes the loss of a piece (under autocast if it wants to be).
        backward: Called once per piece with its weighted loss, such as
            `lambda loss: scaler.scale(loss).backward()`.
        total: The divisor of the whole, where it is known beforehand (the number of samples).
        floor: Least value of a divisor that is summed from the pieces.
        reference: About the divisor of one piece; None takes that of the first.
        parameters: Gives the parameters whose gradients accumulate; needed without `total`.
        around: Given "is it the last piece?", a context, such as `model.no_sync()` for the others.

    Returns:
        The detached loss of the whole batch and the weights of its pieces.

    Raises:
        ValueError: No pieces, or `parameters` is missing.
    """
    if not pieces:
        raise ValueError("a step needs at least one piece")
    if total is None and parameters is None and len(pieces) > 1:
        raise ValueError("without a total, run_pieces needs the parameters")
    values: list[Tensor] = []
    divisors: list[Tensor | float] = []
    shares: list[Tensor | float] = []
    whole: Tensor | float | None = total
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        with around(is_last) if around else nullcontext():
            loss = forward(piece)
            values.append(loss.value.detach())
            divisors.append(loss.divisor)
            shares.append(loss.divisor if loss.share is None else loss.share)
            if reference is None:
                reference = loss.divisor
            if whole is None and is_last:
                whole = _at_least(sum(shares[1:], start=shares[0]), floor)
                if parameters is not None and len(pieces) > 1:
                    _scale_gradients(parameters(), reference / whole)
            scale = reference if whole is None else whole
            backward(loss.value * (loss.divisor / scale))
            del loss  # what is left of its graph goes before the next forward begins
    assert whole is not None
    weights = tuple(divisor / whole for divisor in divisors)
    value = torch.stack([v * w for v, w in zip(values, weights, strict=True)]).sum()
    return StepLoss(value=value, weights=weights, total=whole)


def _at_least(value: Tensor | float, floor: float) -> Tensor | float:
    return value.clamp(min=floor) if isinstance(value, Tensor) else max(value, floor)


def _scale_gradients(parameters: Iterable[Tensor], factor: Tensor | float) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def _slices(rows: Sequence[object], sizes: Sequence[int]) -> list[object]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [rows[end - size : end] for size, end in zip(sizes, ends, strict=True)]
