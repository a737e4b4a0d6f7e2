"""Boxes of an image, counted in a YOLO data set's label files: they size the assigner's tensors."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.errors import DataError
from orchestrator.memory.linear import Ints
from orchestrator.plan.workload import Labels
from orchestrator.trainer.yolo_data import YoloData
from orchestrator.trainer.yolo_labels import check_label, label_of, pictures_in

__all__ = ["LabelCounts", "count_labels"]

_QUANTILE = 0.999  # of the batches of a training, those that may have more boxes: one in 1000
_SAMPLES = 1 << 17
_SEED = 0
_MOSAIC = 4  # images that ultralytics puts together
_THREADS = 4


@dataclass(frozen=True, slots=True, eq=False)
class LabelCounts:
    """Boxes per image of one split; `area` is the mean share of an image that a box covers."""

    counts: Ints
    area: float

    def training(
        self,
        batch: int,
        *,
        mosaic: float = 1.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        copy_paste: float = 0.0,
    ) -> Labels:
        """The labels of a batch of `batch` augmented images: a high quantile of the most boxes.

        An image is, with probability `mosaic`, made of four: itself and three drawn at random; all
        boxes of the four count, though some fall outside in truth. With probabilities `mixup` and
        `cutmix` another image of that kind is laid over it; `copy_paste` is the share of its boxes
        that is put there once more. All are ultralytics' settings. `close_mosaic` only takes
        boxes away in the last epochs, and `rect` makes no picture larger.

        The quantile of a maximum over independent images follows from that of one image:
        P(max <= m) = P(one <= m) ^ batch.
        """
        boxes = self._augmented(_SAMPLES, mosaic, mixup, cutmix, copy_paste)
        most = int(np.quantile(boxes, _QUANTILE ** (1 / batch), method="higher"))
        return Labels(most=most, mean=min(float(boxes.mean()), most), area=self.area)

    def validation(self) -> Labels:
        """The labels of the worst batch of validation, where nothing is augmented."""
        if not len(self.counts):
            return Labels(most=0, mean=0.0, area=self.area)
        return Labels(most=int(self.counts.max()), mean=float(self.counts.mean()), area=self.area)

    def draws(self, batch: int, num: int, *, mosaic: float = 1.0, mixup: float = 0.0) -> list[int]:
        """The most boxes of an image in each of `num` batches, as a training would meet them."""
        boxes = self._augmented(batch * num, mosaic, mixup)
        most: list[int] = boxes.reshape(num, batch).max(axis=1).tolist()
        return most

    def _augmented(
        self, num: int, mosaic: float, mixup: float, cutmix: float = 0.0, copy_paste: float = 0.0
    ) -> Ints:
        chance = np.random.default_rng(_SEED)
        if not len(self.counts):
            return np.zeros(num, np.int64)

        def images() -> Ints:
            drawn = chance.choice(self.counts, (_MOSAIC, num))
            is_mosaic = chance.random(num) < mosaic
            found = drawn[0] + np.where(is_mosaic, drawn[1:].sum(axis=0), 0)
            return found + np.ceil(found * copy_paste).astype(np.int64)

        boxes = images()
        for share in (mixup, cutmix):
            if share:
                boxes = boxes + np.where(chance.random(num) < share, images(), 0)
        return boxes


def count_labels(data: YoloData, split: str = "train", *, task: str = "detect") -> LabelCounts:
    """Read every label file of a split; a picture without one has no boxes.

    Raises:
        DataError: E3210 the split has no pictures; E3212 a label file is broken, with file, line
            and value.
    """
    pictures = [p for path in data.splits.get(split, ()) for p in pictures_in(data, path)]
    if not pictures:
        raise DataError(
            f"the {split} part of {data.source} has no pictures",
            code="E3210",
            fix=("correct the path in it",),
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(lambda p: _boxes(label_of(p), data, task), pictures, chunksize=64))
    counts = np.array([count for count, _ in read], np.int64)
    total = int(counts.sum())
    area = float(sum(area for _, area in read)) / total if total else 0.0
    return LabelCounts(counts=counts, area=min(max(area, 0.0), 1.0))


def _boxes(path: Path, data: YoloData, task: str) -> tuple[int, float]:
    """How many boxes a label file has, and the sum of their areas.

    A file that is not plainly well-formed is given to the strict reader, which names its fault.
    """
    try:
        rows = [row.split() for row in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return 0, 0.0
    except OSError:
        rows = [[b"?"]]
    rows = [row for row in rows if row]
    try:
        return len(rows), sum(_areas(rows, task))
    except ValueError:
        check_label(path, task=task, num_classes=len(data.names), kpt_shape=data.kpt_shape)
        raise DataError(
            f"{path} cannot be read as labels",
            code="E3212",
            fix=("rows are: class x y width height, as fractions of the picture",),
        ) from None


def _areas(rows: list[list[bytes]], task: str) -> Iterable[float]:
    """The share of the picture that the box of each row covers; ValueError where it is no box."""
    for row in rows:
        if len(row) == 5 or (task == "pose" and len(row) > 5):
            area = float(row[3]) * float(row[4])
        elif len(row) >= 7 and len(row) % 2:
            across, down = [float(x) for x in row[1::2]], [float(y) for y in row[2::2]]
            area = (max(across) - min(across)) * (max(down) - min(down))
        else:
            raise ValueError(f"{len(row)} columns")
        if not 0 <= area <= 1.05 or not float(row[0]) >= 0:  # coordinates may leave 0..1 by 0.01
            raise ValueError(f"a box of area {area}")
        yield area
