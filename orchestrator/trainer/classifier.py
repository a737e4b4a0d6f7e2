"""What a timm classifier is trained with, made from the settings: model, transforms, optimizer."""

import difflib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import Mixup, create_transform, resolve_model_data_config
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from orchestrator.errors import ConfigError, DataError
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.types import BatchPlan, TrainSettings

__all__ = [
    "is_fixed_size",
    "make_mix",
    "make_model",
    "make_optimizer",
    "make_schedule",
    "make_transforms",
    "precision",
]

log = logging.getLogger(__name__)

PREFIX = "timm/"
AUGMENTS = {  # ultralytics' words for policies, with the settings torchvision gives them
    "randaugment": "rand-m9-n2",
    "autoaugment": "original",
    "augmix": "augmix-m3-w3",
}
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def make_model(settings: TrainSettings, options: TimmOptions, num_classes: int) -> nn.Module:
    """Create the model, from the weights of a local file if there is one; nothing is downloaded.

    Raises:
        ConfigError: timm has no such model, it has no classifier, or it does not take what the
            settings ask.
        DataError: The weights file is missing, damaged, or of another model.
    """
    name = settings.model.removeprefix(PREFIX)
    _check_name(name)
    if options.pretrained and not options.weights:
        raise ConfigError(
            "pretrained weights are read from a local file, and weights names none",
            code="E1112",
            fix=("weights: path of a .safetensors, .pt or .pth file", "or pretrained: false"),
        )
    wants: dict[str, Any] = {"num_classes": num_classes}
    if options.dropout:
        wants["drop_rate"] = options.dropout
    if options.drop_path:
        wants["drop_path_rate"] = options.drop_path
    if is_fixed_size(name):
        wants["img_size"] = settings.imgsz
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **wants)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{settings.model} cannot be made with {wants}", code="E1113", why=(str(error),)
        ) from error
    if getattr(model, "num_classes", num_classes) == 0:
        raise ConfigError(
            f"{settings.model} cannot be trained to classify",
            code="E1119",
            why=("it is an encoder: timm gives it no classifier, only features",),
            fix=("a model with a classifier; timm.list_models() names them",),
        )
    if options.weights:
        _load_weights(model, Path(options.weights))
    return model


def is_fixed_size(model: str) -> bool:
    """True when a model has weights for each place of a picture, as vision transformers have."""
    config = timm.models.get_pretrained_cfg(model.removeprefix(PREFIX))
    return config is not None and bool(config.fixed_input_size)


def make_transforms(
    model: nn.Module, settings: TrainSettings, options: TimmOptions
) -> tuple[Callable[[Image.Image], Tensor], Callable[[Image.Image], Tensor]]:
    """Make the transforms of training and of validation, to (3, imgsz, imgsz) normalised."""
    data = resolve_model_data_config(model)
    size = (3, settings.imgsz, settings.imgsz)
    look = {key: data[key] for key in ("mean", "std", "interpolation")}
    policy = AUGMENTS.get(options.auto_augment, options.auto_augment) or None
    try:
        train = create_transform(
            size,
            is_training=True,
            scale=(1.0 - options.scale, 1.0),
            hflip=options.fliplr,
            color_jitter=options.color_jitter or None,
            auto_augment=policy,
            re_prob=options.erasing,
            **look,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(
            f'auto_augment "{options.auto_augment}" is not understood',
            code="E1114",
            why=(str(error),),
            fix=(f"use one of: {', '.join(AUGMENTS)}, or timm's form such as rand-m9-mstd0.5",),
        ) from error
    val = create_transform(
        size,
        is_training=False,
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
        **look,
    )
    return train, val


def make_mix(options: TimmOptions, num_classes: int, batch: BatchPlan) -> Mixup | None:
    """Make the mixing of batches, which also smooths the labels; None mixes nothing.

    Raises:
        ConfigError: The batch of a rank is odd: samples are mixed in pairs.
    """
    if not (options.mixup or options.cutmix):
        return None
    if odd := [n for n in (batch.share(0), batch.share(batch.world_size - 1)) if n % 2]:
        raise ConfigError(
            f"mixup and cutmix mix in pairs, and a step has {odd[0]} samples a GPU",
            code="E1115",
            fix=("use an even batch for every GPU, or mixup: 0 and cutmix: 0",),
        )
    return Mixup(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        label_smoothing=options.label_smoothing,
        num_classes=num_classes,
    )


def make_optimizer(
    model: nn.Module, settings: TrainSettings, options: TimmOptions
) -> torch.optim.Optimizer:
    """Make the optimizer; biases and norms have no weight decay.

    Without lr0: 0.01 for SGD (ultralytics' default), 0.001 for the others.

    Raises:
        ConfigError: timm has no such optimizer, or it does not take these settings.
    """
    name = "adamw" if settings.optimizer == "auto" else settings.optimizer.lower()
    known = list_optimizers()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ConfigError(
            f'there is no optimizer "{settings.optimizer}"',
            code="E1116",
            fix=(f"did you mean {' or '.join(near)}?" if near else "such as AdamW or SGD",),
        )
    lr0 = settings.lr0 if settings.lr0 is not None else (0.01 if "sgd" in name else 0.001)
    extra: dict[str, Any] = {}
    if "adam" in name or "lamb" in name or "lion" in name:
        extra["betas"] = (options.momentum, 0.99 if "lion" in name else 0.999)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=name,
            lr=lr0,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            **extra,
        )
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise ConfigError(
            f"the optimizer {settings.optimizer} cannot be made", code="E1117", why=(str(error),)
        ) from error
    return optimizer


def make_schedule(
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    options: TimmOptions,
    steps_per_epoch: int,
) -> Any:
    """Make the learning rate's schedule, to be told every step: linear warm-up, then the fall."""
    lr0 = optimizer.param_groups[0]["lr"]
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="cosine" if options.cos_lr else "poly",
        num_epochs=settings.epochs,
        decay_rate=1.0,  # the power of poly: a straight line
        min_lr=lr0 * options.lrf,
        warmup_lr=lr0 * 0.01,
        warmup_epochs=min(options.warmup_epochs, settings.epochs / 2),
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule


def precision(amp: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in; float32 means that it is off.

    `auto` is bf16 from compute capability 8.0 (Ampere) on, fp16 from 7.0 (Volta, the first with
    tensor cores), and fp32 on older cards and on the CPU.

    Raises:
        ConfigError: `amp` is none of fp16, bf16, fp32, auto.
    """
    if amp in PRECISIONS:
        return PRECISIONS[amp]
    if amp != "auto":
        raise ConfigError(
            f'amp is "{amp}"', code="E1118", fix=("use one of: fp16, bf16, fp32, auto",)
        )
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return torch.bfloat16
    return torch.float16 if major == 7 else torch.float32


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    known = timm.list_models()
    near = difflib.get_close_matches(name.split(".", maxsplit=1)[0], known, n=3, cutoff=0.5)
    raise ConfigError(
        f'timm {timm.__version__} has no model "{name}"',
        code="E1111",
        why=(f"it has {len(known)} others",),
        fix=(f"did you mean {' or '.join(PREFIX + n for n in near)}?",) if near else (),
    )


def _load_weights(model: nn.Module, path: Path) -> None:
    own = model.state_dict()
    given = _read_weights(path)
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for key in [k for k in given if k in own and k.startswith(tuple(f"{h}." for h in heads))]:
        if given[key].shape != own[key].shape:  # made for other classes: start it afresh
            log.warning("%s: %s is for other classes and is not used", path.name, key)
            given[key] = own[key]
    strange = sorted(k for k in given if k not in own or given[k].shape != own[k].shape)
    missing = sorted(own.keys() - given.keys())
    if strange or missing:
        raise DataError(
            f"the weights {path} are of another model",
            code="E3111",
            why=(
                f"{len(strange)} tensors do not fit: {', '.join(strange[:3])}",
                f"{len(missing)} are missing: {', '.join(missing[:3])}",
            ),
            fix=("name the model that the weights belong to",),
        )
    model.load_state_dict(given)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged files raise all kinds, and a file that brings code raises UnpicklingError.
    except Exception as error:
        raise DataError(
            f"the weights {path} cannot be read",
            code="E3110",
            why=(str(error).splitlines()[0] if str(error) else type(error).__name__,),
            fix=("use .safetensors, or a .pt that holds tensors and no code",),
        ) from error
    while isinstance(content, Mapping):
        nested = next((content[k] for k in ("state_dict", "model") if k in content), None)
        if nested is None:
            return {k: v for k, v in content.items() if isinstance(v, Tensor)}
        content = nested
    raise DataError(f"the weights {path} hold no tensors by name", code="E3110")
