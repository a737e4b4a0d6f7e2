"""A cut step moves running statistics as far as the whole batch does."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from orchestrator.trainer.learner import Learner
from orchestrator.trainer.norm_pace import paced
from orchestrator.trainer.options_timm import timm_options
from orchestrator.types import TrainSettings
from tests.trainer.test_yolo_step import COUNTS, batch_of, model_of, step

SETTINGS = TrainSettings(model="timm/any", data="", imgsz=16, epochs=1, amp="fp32", lr0=0.0)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9),
    momentum=st.floats(0.001, 0.9),
)
def test_the_old_value_counts_as_much_as_after_the_whole_batch(
    sizes: list[int], momentum: float
) -> None:
    norm = nn.BatchNorm2d(1, momentum=momentum)
    assert norm.running_mean is not None
    norm.running_mean.fill_(3.0)
    forward = paced(norm, norm, sizes)
    for size in sizes:
        forward(torch.zeros(size, 1, 2, 2))
    assert norm.running_mean.item() == pytest.approx(3.0 * (1.0 - momentum), rel=1e-5)
    assert norm.momentum == momentum


def test_each_piece_counts_by_its_size() -> None:
    norm = nn.BatchNorm2d(1, momentum=0.03)  # that of ultralytics
    assert norm.running_mean is not None
    forward = paced(norm, norm, [6, 2])
    forward(torch.full((6, 1, 2, 2), 1.0))
    forward(torch.full((2, 1, 2, 2), 5.0))
    assert norm.running_mean.item() == pytest.approx(0.03 * 2.0, rel=0.02)


def test_momenta_are_as_before_when_a_piece_fails() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.2), nn.BatchNorm2d(2, momentum=None))

    def fail(_: Tensor) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        paced(model, fail, [1, 1])(torch.zeros(1))
    assert [norm.momentum for norm in model] == [0.2, None]


def test_a_classifier_s_cut_step_leaves_the_statistics_of_the_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = (images.repeat(8, 1, 1, 1), torch.arange(8) % 4)
    found = []
    for micro_batch in (8, 4, 3, 1):
        learner = Learner(
            deepcopy(model),
            SETTINGS,
            timm_options({"ema_decay": 0.0}),
            device=torch.device("cpu"),
            micro_batch=micro_batch,
            steps_per_epoch=1,
        )
        learner.learn(batch)
        found.append(learner.model[1].running_mean)  # type: ignore[index] # a Sequential
    for mean in found[1:]:
        assert torch.allclose(mean, found[0], rtol=1e-4, atol=1e-7)


def test_a_yolo_model_s_cut_step_leaves_the_statistics_of_the_whole() -> None:
    model, batch = model_of("yolov8n.yaml"), batch_of("detect")
    batch["img"] = batch["img"][:1].repeat(len(COUNTS), 1, 1, 1)
    first = model.model[0].bn
    first.train()
    kept = deepcopy(first.state_dict())
    found = []
    for micro_batch in (len(COUNTS), 4, 3, 1):
        first.load_state_dict(kept)
        step(model, batch, micro_batch)
        found.append(first.running_mean.clone())
    assert not torch.allclose(found[0], kept["running_mean"])
    for mean in found[1:]:
        assert torch.allclose(mean, found[0], rtol=1e-4, atol=1e-7)
