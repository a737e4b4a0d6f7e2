"""Workspaces of convolutions: what is copied, when it is taken, and what counts it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from orchestrator.memory.answers import Answers
from orchestrator.memory.events import Birth, StepTrace
from orchestrator.memory.fake import Memory
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand, fits
from orchestrator.memory.stage import FakeStage
from orchestrator.memory.trace import trace_pair, trace_step
from orchestrator.memory.workspace import workspaces
from orchestrator.plan.footprint import Segments
from orchestrator.plan.workload import StepKind, Workload

aten = torch.ops.aten
FORWARD, BACKWARD = aten.convolution.default, aten.convolution_backward.default
TINY = Workload(trainer="timm", model="test_efficientnet", imgsz=64, num_classes=10)


def tensor(*shape: int, dtype: torch.dtype = torch.float16, is_last: bool = False) -> Tensor:
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def forward(images: Tensor, weights: Tensor, groups: int = 1) -> list[int]:
    args = (images, weights, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    return workspaces(FORWARD, args)


def backward(
    gradient: Tensor, images: Tensor, weights: Tensor, mask: Sequence[bool] = (True, True, False)
) -> list[int]:
    args = (gradient, images, weights, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
    return workspaces(BACKWARD, args)


def test_images_and_weights_are_copied_in_rows_of_eight_channels() -> None:
    read = 4 * 8 * 20 * 20 * 2 + 16 * 8 * 3 * 3 * 2
    assert forward(tensor(4, 3, 20, 20), tensor(16, 3, 3, 3)) == [read]
    assert forward(tensor(4, 8, 20, 20), tensor(16, 8, 3, 3)) == [read]


def test_in_single_precision_a_row_is_four_channels() -> None:
    images, weights = (tensor(*s, dtype=torch.float32) for s in ((4, 3, 20, 20), (16, 3, 3, 3)))
    assert forward(images, weights) == [4 * 4 * 20 * 20 * 4 + 16 * 4 * 3 * 3 * 4]


def test_in_double_precision_there_are_no_such_kernels() -> None:
    double = torch.float64
    assert not forward(tensor(4, 8, 9, 9, dtype=double), tensor(8, 8, 3, 3, dtype=double))


def test_with_the_channels_last_only_missing_channels_are_copied() -> None:
    weights = tensor(16, 8, 3, 3, is_last=True)
    assert forward(tensor(4, 8, 20, 20, is_last=True), weights) == [0]
    assert forward(tensor(4, 8, 20, 20), weights) == [0]  # torch puts the images in that order
    few = (tensor(4, 3, 20, 20, is_last=True), tensor(16, 3, 3, 3, is_last=True))
    assert forward(*few) == [4 * 8 * 20 * 20 * 2 + 16 * 8 * 3 * 3 * 2]


def test_weights_of_one_pixel_lie_in_either_order() -> None:
    assert forward(tensor(4, 8, 20, 20), tensor(16, 8, 1, 1)) == [4 * 8 * 20 * 20 * 2]


def test_a_convolution_of_each_channel_alone_takes_nothing() -> None:
    assert not forward(tensor(4, 8, 20, 20), tensor(8, 1, 3, 3), groups=8)
    (some,) = forward(tensor(4, 12, 20, 20), tensor(12, 6, 3, 3), groups=2)
    assert some == 4 * 12 * 20 * 20 * 2 + 12 * 6 * 3 * 3 * 2  # groups are not filled up


def test_the_backward_pass_has_a_workspace_a_gradient_that_is_asked_for() -> None:
    gradient, images, weights = tensor(4, 16, 20, 20), tensor(4, 8, 20, 20), tensor(16, 8, 3, 3)
    out, seen, kept = 4 * 16 * 400 * 2, 4 * 8 * 400 * 2, 16 * 8 * 9 * 2
    assert backward(gradient, images, weights) == [out + kept, seen + out]
    assert backward(gradient, images, weights, (False, True, True)) == [seen + out]


def performed(device: str, *, has_flash: bool = True) -> StepTrace:
    """A convolution forward and backward, of which images need a gradient."""
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    model = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 16, 3, bias=False))
    stage = FakeStage(where, Answers(), Memory(), has_flash=has_flash)
    with stage.entered():
        stage.place(model, "weights", is_channels_last=False)
        model(torch.zeros(2, 8, 12, 12, device=where)).sum().backward()
    return stage.finish(2)


def test_a_workspace_is_taken_after_the_result_of_its_kernel_and_given_back_at_once() -> None:
    events = performed("cuda").events
    found = [at for at, e in enumerate(events) if isinstance(e, Birth) and e.part == "scratch"]
    assert len(found) == 5  # the images of the first need no gradient
    for at in found:
        scratch, result = events[at], events[at - 1]
        assert isinstance(scratch, Birth)
        assert isinstance(result, Birth)
        assert result.part != "scratch"
        assert events[at + 1] == scratch.storage
    sizes = [e.num_bytes for e in events if isinstance(e, Birth) and e.part == "scratch"]
    images, out, weights = 2 * 8 * 144 * 4, 2 * 16 * 100 * 4, 16 * 8 * 9 * 4
    assert sizes == [images, images + weights, out + weights, images + out, 2 * images]


@pytest.mark.parametrize(("device", "has_flash"), [("cpu", True), ("cuda", False)])
def test_neither_hosts_nor_older_cards_have_any(device: str, *, has_flash: bool) -> None:
    assert "scratch" not in {
        event.part for event in performed(device, has_flash=has_flash).events
        if isinstance(event, Birth)
    }  # fmt: skip


@pytest.mark.parametrize("segments", list(Segments))
def test_scratch_is_reserved_but_neither_live_nor_needed(segments: Segments) -> None:
    size = 64 << 20
    steps = [
        StepTrace(
            batch=batch,
            marks=(),
            events=(
                Birth(0, 1 << 20, "weights"),
                Birth(1, batch * size, "scratch"),
                1,
                Birth(2, 2 << 20, "activations"),
                2,
            ),
        )
        for batch in (1, 2)
    ]
    trace = LinearTrace.of(*steps)
    found = demand(trace, 2, segments=segments)
    assert found.allocated_bytes == trace.allocated_peak(2) == 3 << 20
    assert found.reserved_bytes >= 2 * size
    assert found.least_bytes < size
    assert fits(trace, 2, found.least_bytes, segments=segments)
    assert trace.parts_at_peak(trace.sizes(2))["scratch"] == 0


@pytest.mark.parametrize("segments", list(Segments))
def test_what_a_model_needs_does_not_depend_on_workspaces(segments: Segments) -> None:
    with_them, without = (
        LinearTrace.of(*trace_pair(replace(TINY, has_flash_attention=has))) for has in (True, False)
    )
    assert any(with_them.is_scratch)
    assert not any(without.is_scratch)
    for batch in (2, 512):
        more, less = (demand(each, batch, segments=segments) for each in (with_them, without))
        assert (more.allocated_bytes, more.least_bytes) == (less.allocated_bytes, less.least_bytes)
        assert more.reserved_bytes >= more.least_bytes


def test_inference_copies_its_images_into_rows() -> None:
    trace = trace_step(replace(TINY, kind=StepKind.INFER, has_ema=False), 64)
    births = [event for event in trace.events if isinstance(event, Birth)]
    stem = next(birth for birth in births if birth.part == "scratch")
    assert stem.num_bytes >= 64 * 8 * 64 * 64 * 2
