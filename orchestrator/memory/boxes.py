"""Batches as ultralytics' loaders give them, with as many boxes as wanted."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.plan.workload import Labels

__all__ = ["boxes_of"]


def boxes_of(
    task: str,
    num_images: int,
    imgsz: int,
    labels: Labels,
    keypoints: Sequence[int] | None,
    *,
    mask_ratio: int = 4,
    has_overlap: bool = True,
) -> dict[str, Any]:
    """Make a batch on the host; every image has the mean number of boxes, rounded up.

    Args:
        task: detect | segment | pose | obb.
        num_images: Images.
        imgsz: Height and width, in pixels.
        labels: How many boxes, and how large.
        keypoints: Points of an object, and numbers of a point; for pose.
        mask_ratio: Pixels of a picture to one of its masks, in each direction.
        has_overlap: Whether the objects of an image share a mask; else each has its own.

    Returns:
        What ultralytics' collate function makes: `img` (N, 3, H, W) uint8, `batch_idx` (n,),
        `cls` (n, 1), `bboxes` (n, 4) relative, or (n, 5) for obb; `masks` (N or n, H/4, W/4) uint8
        and `sem_masks`; `keypoints` (n, points, numbers).
    """
    count = math.ceil(labels.mean)
    total = num_images * count
    side = math.sqrt(labels.area)
    centers = torch.rand(total, 2) * (1 - side) + side / 2
    boxes = [centers, torch.full((total, 2), side)]
    if task == "obb":
        boxes.append(torch.zeros(total, 1))
    owners = torch.arange(num_images, dtype=torch.float32)[:, None].expand(num_images, count)
    batch: dict[str, Any] = {
        "img": torch.randint(0, 256, (num_images, 3, imgsz, imgsz), dtype=torch.uint8),
        "cls": torch.zeros(total, 1),
        "bboxes": torch.cat(boxes, 1),
        "batch_idx": owners.reshape(total),
    }
    if task == "segment":
        sides = (imgsz // mask_ratio, imgsz // mask_ratio)
        if has_overlap:
            batch["masks"] = _blocks((num_images, *sides), count)
        else:
            batch["masks"] = torch.ones(total, *sides, dtype=torch.uint8)
        batch["sem_masks"] = torch.zeros(num_images, *sides)
    if task == "pose":
        assert keypoints is not None
        batch["keypoints"] = torch.ones(total, *keypoints)
    return batch


def _blocks(size: tuple[int, int, int], count: int) -> Tensor:
    """Masks in which every object covers some rows."""
    rows = torch.arange(size[1]) * count // size[1] + 1
    return rows.to(torch.uint8)[None, :, None].expand(size).contiguous()
