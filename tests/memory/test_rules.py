"""Results by rule are those that torch derives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from orchestrator.memory import fake
from orchestrator.memory.answers import Answers
from orchestrator.memory.fake import FakeCard, Memory
from orchestrator.memory.rules import RULES
from orchestrator.memory.tracker import Tracker

aten = torch.ops.aten
CARD = torch.device("cuda", 0)
SHAPES = ((4, 6, 5, 7), (4, 6, 1, 1), (2, 1, 3, 3), (3, 8))
LAYOUTS = ("contiguous", "channels last", "slice", "transposed")


def card(memory: Memory | None = None) -> FakeCard:
    """A card without tensors."""
    return FakeCard(Tracker(), Answers(), CARD, memory or Memory())


def laid_out(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """A fake tensor of that layout, as far as its dimensions allow it."""
    if layout == "slice":
        return torch.empty((shape[0], 2 * shape[-1], *shape[1:]), dtype=dtype, device=CARD)[:, 1]
    made = torch.empty(shape, dtype=dtype, device=CARD)
    if layout == "transposed":
        return made.transpose(0, -1)
    if layout == "channels last" and made.ndim == 4:
        return made.to(memory_format=torch.channels_last)
    return made


def signature(found: Any) -> list[tuple[Any, ...]]:
    """What is seen of results: shape, stride, type, device, and the bytes of their storages."""
    values = found if isinstance(found, list | tuple) else [found]
    assert all(type(value) is FakeTensor for value in values)
    return [
        (v.shape, v.stride(), v.dtype, v.fake_device, v.untyped_storage().nbytes()) for v in values
    ]


def both(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    """The signatures of what `run` makes, with rules and without."""
    with card().entered():
        ruled = signature(run())
    monkeypatch.setattr(fake, "RULES", {})
    with card().entered():
        return ruled, signature(run())


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("func", [aten.silu_backward.default, aten.sigmoid_backward.default])
def test_gradients_of_activations(
    monkeypatch: pytest.MonkeyPatch,
    func: Any,
    shape: tuple[int, ...],
    first: str,
    second: str,
) -> None:
    def run() -> Any:
        one = laid_out(shape, first, torch.float16)
        two = laid_out(tuple(one.shape), second, torch.float16)
        return func(one, two if two.shape == one.shape else one)

    ruled, derived = both(monkeypatch, run)
    assert ruled == derived


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    *,
    is_training: bool,
) -> None:
    def run() -> Any:
        given = laid_out(shape, layout, dtype)
        kind = torch.float64 if dtype is torch.float64 else torch.float32
        weights = [torch.empty(given.shape[1], dtype=kind, device=CARD) for _ in range(4)]
        out = aten.cudnn_batch_norm.default(given, *weights, is_training, 0.1, 1e-5)
        if not is_training:
            return out
        gradient = torch.empty_like(out[0])
        back = aten.cudnn_batch_norm_backward.default(
            given, gradient, weights[0], *weights[2:], out[1], out[2], 1e-5, out[3]
        )
        return [*out, *back]

    ruled, derived = both(monkeypatch, run)
    assert ruled == derived


def test_rules_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spying(tensors: Any, args: Any) -> Any:
        asked.append(args)
        return rule(tensors, args)

    rule = RULES[aten.silu_backward.default]
    monkeypatch.setattr(fake, "RULES", {aten.silu_backward.default: spying})
    memory = Memory()
    with card(memory).entered():
        one = torch.empty((4, 6, 5, 7), device=CARD)
        found = [aten.silu_backward.default(one, one) for _ in range(3)]
    assert [each.shape for each in found] == [one.shape] * 3
    assert len(asked) == 1  # then it is remembered


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_make_what_their_elements_would(layout: str) -> None:
    with card().entered():
        given = [laid_out((4, 6, 5, 7), layout, torch.float16) for _ in range(3)]
        roots = torch._foreach_sqrt(given)
        norms = torch._foreach_norm(given, 2.0)
        wanted = [torch.sqrt(tensor) for tensor in given]
    assert signature(roots) == signature(wanted)
    assert [(norm.shape, norm.dtype) for norm in norms] == [((), torch.float16)] * 3
