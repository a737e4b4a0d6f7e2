"""What a trace assumes where real code asks the data: how many rows, which numbers.

Everything is proportional to the number of samples, so that traces of two batches tell of others.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator.plan.workload import Labels

__all__ = ["Answers"]


@dataclass(slots=True)
class Answers:
    """Answers to questions about the labels of a batch.

    Args:
        labels: Of the data; None where there are no boxes.
        batch: Samples of one forward pass.
        groups: In how many parts code that loops over images runs; 0 is once an image.
    """

    labels: Labels | None = None
    batch: int = 1
    groups: int = 0
    anchors: int = 0  # places of the detector's grid
    top: int = 10  # anchors that a box is assigned to at most
    wide_top: int = 10  # candidates that are looked at closely, a box

    @property
    def per_image(self) -> int:
        """Boxes of an image, on average."""
        return 0 if self.labels is None else math.ceil(self.labels.mean)

    @property
    def most(self) -> int:
        """Boxes of the image that has most."""
        return 0 if self.labels is None else max(self.labels.most, self.per_image)

    @property
    def candidates(self) -> int:
        """Pairs of a box and an anchor inside it, an image."""
        area = 0.0 if self.labels is None else self.labels.area
        return max(1, round(self.per_image * self.anchors * area))

    @property
    def looked_at(self) -> int:
        """Pairs of a box and an anchor that are looked at closely, an image."""
        return min(self.candidates, self.per_image * self.wide_top)

    @property
    def positives(self) -> int:
        """Anchors that are assigned a box, an image."""
        return max(1, min(self.per_image * self.top, self.candidates, self.anchors))

    def watch(self, assigner: Any) -> None:
        """Read the numbers of a task-aligned assigner before it runs."""

        def look(module: Any, given: tuple[Tensor, ...]) -> None:
            self.anchors = given[0].shape[1]
            self.top = min(int(module.topk), int(module.topk2))
            self.wide_top = 3 * int(module.topk)

        assigner.register_forward_pre_hook(look)

    def rows(self, mask: Tensor) -> int:
        """How many elements of a mask are true.

        (B, boxes, anchors): candidates. (B, anchors) and (anchors): assigned anchors. One value a
        candidate: those that are looked at closely. Any other mask is taken to be true throughout,
        which is the most that it can be.
        """
        shape = tuple(mask.shape)
        if not self.anchors or not shape:
            return mask.numel()
        if len(shape) == 3 and shape[-1] == self.anchors:
            return shape[0] * self.candidates
        if shape[-1] == self.anchors:
            if len(shape) == 2:
                return shape[0] * self.positives
            return self.positives * self.batch // self.groups if self.groups else self.positives
        if shape == (self.batch * self.candidates,):
            return self.batch * self.looked_at
        return mask.numel()

    def most_of(self, elements: int, bins: int) -> int:
        """The fullest of `bins` bins that `elements` elements fall into."""
        if elements == self.batch * self.per_image:
            return self.most
        return -(-elements // max(bins, 1))

    def number(self, tensor: Any) -> float | int | bool:
        """The value of a tensor with one element.

        Flags are true, counts 1; floats are 10, since they count the steps of an optimizer.
        """
        known = getattr(tensor, "known", None)
        if known is not None:
            return int(known)
        if tensor.dtype is torch.bool:
            return True
        if tensor.dtype.is_floating_point:
            return 10.0
        return 1
