"""The grid of the memory bench: 60 settings of both families, and the budgets."""

from dataclasses import dataclass
from itertools import product

from orchestrator.plan.workload import Labels, Workload

GIB = 1 << 30
BUDGETS = (6, 8, 12, 16, 24)  # GiB
LABELS = Labels(most=60, mean=20)
PRECISIONS = ("fp16", "bf16", "fp32")
OPTIMIZERS = ("AdamW", "SGD", "Adam")
DETECTORS = (
    *(f"yolo{v}{s}.yaml" for v, s in product(("v8", "11", "12", "26"), "nsmlx")),
    "yolo11s-seg.yaml", "yolo11m-seg.yaml", "yolov8s-pose.yaml", "yolo11n-cls.yaml",
)  # fmt: skip
CLASSIFIERS = (
    "resnet18", "resnet50", "efficientnet_b0", "efficientnet_b3", "mobilenetv3_large_100",
    "convnext_tiny", "convnext_base", "vit_small_patch16_224", "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224", "densenet121", "regnety_016",
)  # fmt: skip
TASKS = {"-seg": "segment", "-pose": "pose", "-obb": "obb", "-cls": "classify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A workload and how many samples a step has."""

    workload: Workload
    batch: int


def settings() -> list[Setting]:
    """The 60 settings: 36 of detectors, 24 of classifiers, precisions and optimizers in turn."""
    found: list[Setting] = []
    for number in range(36):
        model = DETECTORS[number % len(DETECTORS)]
        task = next((t for word, t in TASKS.items() if word in model), "detect")
        size = 224 if task == "classify" else (640, 512, 416)[number % 3]
        found.append(_setting("yolo", model, size, 80, number, (16, 8, 24)[number // 3 % 3], task))
    for number in range(24):
        again, at = divmod(number, len(CLASSIFIERS))
        batch = (64, 32, 128)[(number + again) % 3]
        found.append(_setting("timm", CLASSIFIERS[at], 224, 1000, number + again, batch))
    return found


def _setting(
    trainer: str, model: str, size: int, classes: int, number: int, batch: int,
    task: str = "classify",
) -> Setting:  # fmt: skip
    workload = Workload(
        trainer=trainer,
        model=model,
        imgsz=size,
        num_classes=classes,
        task=task,
        precision=PRECISIONS[number % 3],
        optimizer=OPTIMIZERS[number // 2 % 3],
        is_channels_last=trainer == "yolo",
        labels=None if task == "classify" else LABELS,
    )
    return Setting(workload=workload, batch=batch)
