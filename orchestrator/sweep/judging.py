"""Judges many values of a space at the price of a few: by those that bear on memory."""

from collections.abc import Callable

from orchestrator.sweep.definition import Definition
from orchestrator.sweep.ports import Judgement, Runs
from orchestrator.sweep.space import Values, settings_of
from orchestrator.types import Scalar

__all__ = ["judging"]

_WEIGHTLESS = frozenset(  # keys of rates and of augmentation, in ultralytics' names and ours
    [
        "lr0",
        "lrf",
        "momentum",
        "weight_decay",
        "warmup_epochs",
        "warmup_momentum",
        "warmup_bias_lr",
        "box",
        "cls",
        "dfl",
        "hsv_h",
        "hsv_s",
        "hsv_v",
        "degrees",
        "translate",
        "scale",
        "shear",
        "perspective",
        "flipud",
        "fliplr",
        "bgr",
        "mosaic",
        "mixup",
        "cutmix",
        "copy_paste",
        "close_mosaic",
        "erasing",
        "label_smoothing",
        "drop_path",
        "seed",
        "patience",
    ]
)


def judging(definition: Definition, runs: Runs) -> Callable[[Values], Judgement]:
    """Plans values without keys that hardly bear on memory, and each combination once.

    Args:
        definition: Of the sweep.
        runs: What plans; nothing is started.
    """
    known: dict[tuple[tuple[str, Scalar], ...], Judgement] = {}

    def judge(values: Values) -> Judgement:
        own = {key: value for key, value in values.items() if key not in _WEIGHTLESS}
        name = tuple(sorted(own.items()))
        if name not in known:
            known[name] = runs.judge(settings_of(definition.space, own, definition.batch))
        return known[name]

    return judge
