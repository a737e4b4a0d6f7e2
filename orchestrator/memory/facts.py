"""What the data and the model's file say that memory depends on: classes, task, boxes."""

import pkgutil
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import DataError
from orchestrator.plan.job import Facts
from orchestrator.types import RunSpec

if TYPE_CHECKING:
    from orchestrator.memory.labels import LabelCounts
    from orchestrator.trainer.yolo_data import YoloData

__all__ = ["CountedLabels", "facts_of", "task_of"]

_YOLO_NAME = re.compile(r"yolo\w*?(?:-(cls|seg|pose|obb))?\.(?:pt|ya?ml)")
_TASKS = {"cls": "classify", "seg": "segment", "pose": "pose", "obb": "obb"}
# Class names as ultralytics' weights carry them in their pickle; the text is read, never executed.
_CLASSES = {
    b"SegmentationModel": "segment",
    b"PoseModel": "pose",
    b"OBBModel": "obb",
    b"ClassificationModel": "classify",
    b"DetectionModel": "detect",
}


class CountedLabels:
    """Counts of labels that are read once, for who plans one data set again and again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], LabelCounts] = {}

    def of(self, data: "YoloData", split: str, task: str) -> "LabelCounts":
        """The counts of a split, as they were at first; raises as `labels.count_labels`."""
        from orchestrator.memory.labels import count_labels

        name = f"{data.source} {data.splits.get(split)}", split, task
        if name not in self._known:
            self._known[name] = count_labels(data, split, task=task)
        return self._known[name]


def facts_of(spec: RunSpec, labels: CountedLabels | None = None) -> Facts:
    """Read the data set of a run as far as its memory depends on it.

    Labels of training are those of the worst of a thousand batches of one rank.

    Args:
        spec: The run.
        labels: Those that were read before; None reads them.

    Raises:
        DataError: The data set is not what the trainer needs.
    """
    settings = spec.settings
    path = Path(settings.data).expanduser()
    if spec.trainer == "timm":
        from orchestrator.trainer.pictures import find_pictures

        train, _ = find_pictures(path, settings.seed)
        return Facts(num_classes=len(train.classes), num_images=len(train))
    task = task_of(settings.model)
    if task == "classify":
        data = pkgutil.resolve_name("orchestrator.trainer.yolo_data:read_class_folders")(path)
        pictures = sum(1 for each in (path / "train").rglob("*") if each.is_file())
        return Facts(num_classes=len(data.names), num_images=pictures)
    from orchestrator.trainer.yolo_data import read_data_yaml

    data, counted = read_data_yaml(path), labels or CountedLabels()
    train_counts, val_counts = (counted.of(data, split, task) for split in ("train", "val"))
    options = settings.options
    # Pictures that are batched by shape are not put together (ultralytics/data/dataset.py).
    mixing = {} if options.get("rect") is True else options
    return Facts(
        num_classes=len(data.names),
        task=task,
        train_labels=train_counts.training(
            max(1, spec.effective_batch // spec.num_gpus),
            mosaic=_share(mixing.get("mosaic"), 1.0 if mixing is options else 0.0),
            mixup=_share(mixing.get("mixup"), 0.0),
            cutmix=_share(mixing.get("cutmix"), 0.0),
            copy_paste=_share(options.get("copy_paste"), 0.0),
        ),
        validation_labels=val_counts.validation(),
        num_images=len(train_counts.counts),
        num_validation_images=len(val_counts.counts),
    )


def _share(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def task_of(model: str) -> str:
    """The task of a YOLO model, by its name or, for weights of another name, by what is in them.

    Raises:
        DataError: E3221, the weights do not say which kind of YOLO model they are.
    """
    path = Path(model)
    if found := _YOLO_NAME.fullmatch(path.name):
        return _TASKS.get(found[1], "detect")
    if path.suffix in (".yaml", ".yml"):
        return next((task for word, task in _TASKS.items() if f"-{word}" in path.stem), "detect")
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            content = archive.read(name)
    except (OSError, StopIteration, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not a file of YOLO weights", code="E3221", fix=("name a .pt file",)
        ) from error
    for word, task in _CLASSES.items():
        if word in content:
            return task
    raise DataError(
        f"{path} does not say for which task it is",
        code="E3221",
        fix=("use weights that ultralytics has written, as .pt",),
    )
