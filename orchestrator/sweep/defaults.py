"""What a sweep varies and measures where nobody says: by trainer and task."""

from pathlib import Path

from orchestrator.sweep.space import Space, choice, loguniform, tied, uniform

__all__ = ["default_metric", "default_mode", "default_space"]

_TASK_METRICS = {
    "-cls": "metrics/accuracy_top1",
    "-seg": "metrics/mAP50-95(M)",
    "-pose": "metrics/mAP50-95(P)",
}


def default_metric(trainer: str, model: str) -> str:
    """The metric that tells how good a trial is, as its trainer reports it."""
    if trainer == "fake":
        return "score"
    if trainer == "timm":
        return "metrics/accuracy_top1"
    stem = Path(model).stem
    found = (metric for word, metric in _TASK_METRICS.items() if word in stem)
    return next(found, "metrics/mAP50-95(B)")


def default_mode(metric: str) -> str:
    """`min` for a loss, else `max`."""
    return "min" if "loss" in metric else "max"


def default_space(trainer: str) -> Space:
    """The keys that matter most, in ranges around what both trainers have as defaults.

    For detectors a part of the ranges of ultralytics' own tuner (`Tuner.space`, 8.4), narrowed
    where a short training cannot tell values apart; rates hold for a batch of 64.
    """
    shared = {
        "batch": choice([16, 32, 64, 128]),
        "lr0": tied(loguniform(1e-4, 1e-2), "sqrt", at=64),
        "weight_decay": loguniform(1e-5, 1e-1 if trainer == "timm" else 1e-2),
    }
    if trainer == "timm":
        return {
            **shared,
            "label_smoothing": choice([0.0, 0.1]),
            "drop_path": uniform(0.0, 0.3),
            "mixup": uniform(0.0, 0.4),
        }
    if trainer == "yolo":
        return {
            **shared,
            "momentum": uniform(0.7, 0.98),
            "mosaic": uniform(0.0, 1.0),
            "mixup": uniform(0.0, 0.3),
            "scale": uniform(0.0, 0.9),
            "hsv_s": uniform(0.0, 0.9),
        }
    return shared
