"""Bytes that non-maximum suppression takes in validation, of the image with most candidates."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from orchestrator.types import Bytes

__all__ = ["predictions_in", "suppression_bytes"]

_MOST_BOXES = 30_000  # `max_nms` of ultralytics/utils/nms.py
_WORD = 64  # boxes whose overlap with one other is kept in one word


def suppression_bytes(predictions: Tensor, num_classes: int) -> Bytes:
    """The most that `non_max_suppression` of ultralytics 8.4 may take beside what it is given.

    Every anchor counts as a candidate of every class, as early in a training: `multi_label`, which
    validation uses, makes a row a pair. Images are judged one after the other. The overlaps are
    those of torchvision's kernel, one bit for each pair of boxes
    (torchvision/csrc/ops/cuda/nms_kernel.cu: `dets_num * ceil(dets_num / 64)` words of 8 bytes).

    Args:
        predictions: (images, 4 + classes + extra, anchors).
        num_classes: Classes.
    """
    _, channels, anchors = predictions.shape
    extra = channels - 4 - num_classes
    pairs = anchors * num_classes
    rows = 4 * anchors * channels
    # Two indices, the columns that are gathered, and the row that they are joined to.
    joined = pairs * (2 * 8 + 2 * 4 * (6 + extra))
    boxes = min(pairs, _MOST_BOXES)
    words = boxes * -(-boxes // _WORD) * 8
    kept = boxes * (4 * (6 + extra) + 4 * 4 + 4 + 8 + 4 * 4)  # rows, boxes, scores, order, sorted
    return rows + max(joined, kept + words)


def predictions_in(found: Any) -> Tensor | None:
    """The predictions of a detector's output in validation: (images, channels, anchors)."""
    if isinstance(found, Tensor):
        return found if found.ndim == 3 else None
    inner: Iterable[Any] = found if isinstance(found, list | tuple) else ()
    return next((each for one in inner if (each := predictions_in(one)) is not None), None)
