"""A plain timm training loop, as one writes it by hand: what TimmTrainer is compared with."""

import argparse
from functools import partial
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from jobs.pairs import stamp
from jobs.yolo_link import Stamp

__all__ = ["native"]


def native(given: argparse.Namespace, folder: Path) -> list[Stamp]:
    """The same as one writes it by hand: data, augmentation, model, EMA, validation, last, best."""
    data = {k: ImageFolder(given.data / k) for k in ("train", "val")}
    model = timm.create_model(given.model, num_classes=len(data["train"].classes))
    look = resolve_model_data_config(model) | {"input_size": (3, given.imgsz, given.imgsz)}
    data["train"].transform = create_transform(**look, is_training=True, scale=(0.5, 1.0))
    data["val"].transform = create_transform(**look)
    load = partial(DataLoader, num_workers=given.workers, persistent_workers=given.workers > 0)
    train = load(data["train"], given.batch, shuffle=True, drop_last=True)
    val = load(data["val"], 2 * given.batch)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs * len(train))
    ema, best = ModelEmaV3(model, decay=0.9998, use_warmup=True), -1
    stamps: list[Stamp] = []
    for epoch in range(given.epochs):
        model.train()
        for step, (images, labels) in enumerate(train, 1 + epoch * len(train)):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(images), labels))
            optimizer.step()
            ema.update(model, step)
            schedule.step()
        right = _right(ema.module, val)
        states = [part.state_dict() for part in (model, ema, optimizer, schedule)]
        torch.save(states, folder / "last.pt")
        if right > best:
            best = right
            torch.save(states, folder / "best.pt")
        stamps.append(stamp())
    return stamps


@torch.no_grad()
def _right(model: nn.Module, val: DataLoader[tuple[torch.Tensor, int]]) -> int:
    return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in val)
