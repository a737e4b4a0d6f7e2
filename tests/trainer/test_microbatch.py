"""Cutting a step leaves its gradients as they are."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.trainer.microbatch import (
    PieceLoss,
    cut,
    cut_detection,
    piece_sizes,
    run_pieces,
)
from orchestrator.types import BatchPlan

NUM_SAMPLES = 12
TOLERANCE = 1e-4  # relative, of single-precision sums in another order
CUTS = [(12,), (6, 6), (5, 5, 2), (4, 4, 4), (3, 3, 3, 3)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("mobilenetv3_small_050", num_classes=5)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its statistics are what a cut does change
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_SAMPLES, 3, 64, 64, generator=generator)
    return images, torch.randint(0, 5, (NUM_SAMPLES,), generator=generator)


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


def distance(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    pairs = zip(got, wanted, strict=True)
    return max(float((g - w).norm() / w.norm()) for g, w in pairs if w.norm() > 0)


@pytest.mark.parametrize("sizes", CUTS)
def test_gradients_of_the_pieces_add_up_to_those_of_the_whole(
    model: nn.Module, batch: tuple[Tensor, Tensor], sizes: tuple[int, ...]
) -> None:
    whole = functional.cross_entropy(model(batch[0]), batch[1])
    torch.autograd.backward(whole)
    wanted = gradients(model)

    def forward(piece: Any) -> PieceLoss:
        value = functional.cross_entropy(model(piece[0]), piece[1])
        return PieceLoss(value=value, divisor=len(piece[1]))

    step = run_pieces(cut(batch, sizes), forward, total=NUM_SAMPLES)
    assert distance(gradients(model), wanted) < TOLERANCE
    assert step.value.item() == pytest.approx(whole.item(), rel=TOLERANCE)
    assert sum(step.weights) == pytest.approx(1.0)


class Counted:
    """A loss like that of detection: a weighted sum over its normaliser, clamped at 1."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, piece: Any) -> PieceLoss:
        images, amounts = piece
        losses = self._model(images).square().mean(dim=1)
        total = amounts.sum()
        divisor = total.clamp(min=1)
        return PieceLoss(value=(losses * amounts).sum() / divisor, divisor=divisor, share=total)


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("amounts", ["many", "none in the first pieces", "less than one in all"])
def test_a_divisor_known_only_after_the_forward_gives_the_same_gradients(
    model: nn.Module, batch: tuple[Tensor, Tensor], sizes: tuple[int, ...], amounts: str
) -> None:
    weights = torch.linspace(0.5, 40.0, NUM_SAMPLES)
    if amounts == "none in the first pieces":
        weights[:8] = 0
    elif amounts == "less than one in all":
        weights *= 0.001
    forward = Counted(model)
    whole = forward((batch[0], weights)).value
    torch.autograd.backward(whole)
    wanted = gradients(model)
    step = run_pieces(
        cut((batch[0], weights), sizes), forward, parameters=model.parameters, floor=1.0
    )
    assert distance(gradients(model), wanted) < TOLERANCE
    assert float(step.value) == pytest.approx(whole.item(), rel=TOLERANCE)
    assert float(step.total) == pytest.approx(max(1.0, weights.sum().item()))


def test_the_reference_changes_the_scale_on_the_way_and_not_the_result(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    weights = torch.linspace(0.5, 40.0, NUM_SAMPLES)
    found = []
    for reference in (None, 1.0, torch.tensor(80.0)):
        run_pieces(
            cut((batch[0], weights), (5, 5, 2)),
            Counted(model),
            parameters=model.parameters,
            reference=reference,
        )
        found.append(gradients(model))
    assert distance(found[1], found[0]) < TOLERANCE
    assert distance(found[2], found[0]) < TOLERANCE


def test_scaled_gradients_are_those_of_the_whole_after_unscaling(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    weights = torch.linspace(0.5, 40.0, NUM_SAMPLES)
    torch.autograd.backward(Counted(model)((batch[0], weights)).value)
    wanted = gradients(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run_pieces(
        cut((batch[0], weights), (5, 5, 2)),
        Counted(model),
        parameters=model.parameters,
        backward=lambda loss: torch.autograd.backward(scaler.scale(loss)),
    )
    scaler.unscale_(optimizer)
    assert distance(gradients(model), wanted) < TOLERANCE


def test_only_the_last_piece_is_announced_as_the_last() -> None:
    weight = nn.Parameter(torch.ones(()))
    announced = []

    def around(is_last: bool) -> AbstractContextManager[object]:
        announced.append(is_last)
        return nullcontext()

    def forward(piece: Any) -> PieceLoss:
        return PieceLoss(value=weight * piece.mean(), divisor=len(piece))

    run_pieces(cut(torch.ones(5), (2, 2, 1)), forward, total=5, around=around)
    assert announced == [False, False, True]


@given(num_samples=st.integers(1, 60), micro_batch=st.integers(1, 70))
def test_sizes_agree_with_the_batch_plan_and_pieces_join_to_the_batch(
    num_samples: int, micro_batch: int
) -> None:
    sizes = piece_sizes(num_samples, micro_batch)
    micro = min(micro_batch, num_samples)
    plan = BatchPlan(effective_batch=num_samples, world_size=1, micro_batch=micro)
    assert sizes == plan.pieces
    rows = torch.arange(num_samples)
    names = [str(row) for row in range(num_samples)]
    pieces: list[Any] = cut({"x": rows, "pair": (rows, 7), "names": names, "scale": 2.0}, sizes)
    assert torch.equal(torch.cat([p["x"] for p in pieces]), rows)
    assert torch.equal(torch.cat([p["pair"][0] for p in pieces]), rows)
    assert [name for p in pieces for name in p["names"]] == names
    assert all(p["scale"] == 2.0 and p["pair"][1] == 7 for p in pieces)


@given(data=st.data())
def test_objects_follow_their_image_into_its_piece(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    num_images = sum(sizes)
    owners = sorted(data.draw(st.lists(st.integers(0, num_images - 1), max_size=12)))
    batch: dict[str, Any] = {
        "img": torch.arange(num_images)[:, None, None, None].float(),
        "im_file": tuple(f"{i}.jpg" for i in range(num_images)),
        "batch_idx": torch.tensor(owners, dtype=torch.float32),
        "cls": torch.arange(len(owners))[:, None].float(),
        "bboxes": torch.rand(len(owners), 4),
    }
    pieces: list[Any] = cut_detection(batch, sizes)
    assert torch.equal(torch.cat([p["cls"] for p in pieces]), batch["cls"])
    seen = []
    for size, piece in zip(sizes, pieces, strict=True):
        assert piece["img"].shape[0] == len(piece["im_file"]) == size
        assert piece["bboxes"].shape[0] == piece["batch_idx"].shape[0]
        assert all(0 <= owner < size for owner in piece["batch_idx"].tolist())
        seen += [piece["img"][int(owner)].item() for owner in piece["batch_idx"]]
    assert seen == owners


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        cut(torch.zeros(5), (2, 2))
    with pytest.raises(ValueError, match="at least one piece"):
        run_pieces([], lambda piece: PieceLoss(value=torch.zeros(()), divisor=1.0), total=1)
    with pytest.raises(ValueError, match="parameters"):
        run_pieces([1, 2], lambda piece: PieceLoss(value=torch.zeros(()), divisor=1.0))
