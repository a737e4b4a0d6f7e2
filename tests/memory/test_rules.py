"""Results by rule are those that torch derives."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from orchestrator.memory import recipes
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
    values = [v for v in (found if isinstance(found, list | tuple) else [found]) if v is not None]
    assert all(type(value) is FakeTensor for value in values)
    return [
        (
            v.shape,
            v.stride(),
            v.storage_offset(),
            v.dtype,
            v.fake_device,
            v.untyped_storage().nbytes(),
        )
        for v in values
    ]


def both(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    """The signatures of what `run` makes, with rules and without."""
    with card().entered():
        ruled = signature(run())
    monkeypatch.setattr(recipes, "RULES", {})
    monkeypatch.setattr(recipes, "VIEWS", {})
    monkeypatch.setattr(recipes, "copied", lambda *_: None)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("func", "second"),
    [
        *product([aten.add.Tensor, aten.div.Tensor], [*LAYOUTS, "number"]),
        *product([aten.maximum.default], LAYOUTS),
    ],
)
def test_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
    func: Any,
    shape: tuple[int, ...],
    first: str,
    second: str,
    dtype: torch.dtype,
) -> None:
    def run() -> Any:
        one = laid_out(shape, first, dtype)
        if second == "number":
            return func(one, 2.5)
        two = laid_out(tuple(one.shape), second, dtype)
        return func(one, two if two.shape == one.shape else one)

    ruled, derived = both(monkeypatch, run)
    assert ruled == derived


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float16},
        {"dtype": torch.int64, "layout": torch.strided},
        {"device": torch.device("cpu")},
        {"device": CARD, "dtype": torch.bfloat16, "non_blocking": True},
        {"dtype": torch.float16, "memory_format": torch.channels_last},
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_copies(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], layout: str, options: dict[str, Any]
) -> None:
    def run() -> Any:
        given = laid_out(shape, layout, torch.float32)
        if given.ndim != 4 and "memory_format" in options:
            return given
        return aten._to_copy.default(given, **options)

    ruled, derived = both(monkeypatch, run)
    assert ruled == derived


@pytest.mark.parametrize(
    "run",
    [
        lambda t: aten.select.int(t, 1, 2),
        lambda t: aten.select.int(t, -1, -1),
        lambda t: aten.slice.Tensor(t, 1, 1, 3),
        lambda t: aten.slice.Tensor(t, 1, 1, 1 << 62),
        lambda t: aten.slice.Tensor(t, 1, -2, -1),
        lambda t: aten.slice.Tensor(t, 1, 0, 3, 2),
        lambda t: aten.slice.Tensor(t, 1),
        lambda t: aten.slice.Tensor(aten.slice.Tensor(t, 0, 1, 2), 1, 1, 2),
        lambda t: aten.view.default(t, t.shape),
        lambda t: aten.view.default(t, [t.shape[0], -1]),
        lambda t: aten.view.default(t, [t.shape[0], 2, t.shape[1] // 2, *t.shape[2:]]),
        lambda t: aten.view.default(t, [-1, 1]),
        lambda t: aten.view.default(t, [1, *t.shape]),
        lambda t: aten.view.default(aten.slice.Tensor(t, 0, 1, 2), [-1]),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (4, 6, 1, 1), (3, 8)])
def test_views(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    layout: str,
    run: Callable[[Tensor], Tensor],
) -> None:
    def seen() -> Any:
        given = laid_out(shape, layout, torch.float16)
        try:
            found = run(given)
        except (RuntimeError, ValueError):  # it cannot be viewed so
            return []
        assert found.untyped_storage()._cdata == given.untyped_storage()._cdata
        return found

    ruled, derived = both(monkeypatch, seen)
    assert ruled == derived


@pytest.mark.parametrize("mask", [(True, True, True), (True, True, False), (False, True, False)])
@pytest.mark.parametrize(
    ("channels", "groups", "width", "options"),
    [
        (8, 1, 3, ([1, 1], [1, 1], [1, 1])),
        (8, 8, 3, ([2, 2], [1, 1], [1, 1])),
        (8, 2, 1, ([1, 1], [0, 0], [1, 1])),
        (1, 1, 3, ([2, 1], [2, 0], [2, 1])),
    ],
)
@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS[:3]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [9, 1])
def test_convolutions(  # noqa: PLR0917 - all that a convolution is given
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    channels: int,
    groups: int,
    width: int,
    options: tuple[list[int], list[int], list[int]],
    mask: tuple[bool, bool, bool],
) -> None:
    if size < width:
        options = (options[0], [2 * width, 2 * width], options[2])

    def run() -> Any:
        shape = (4, channels, size, size)
        images = laid_out(shape, layouts[0], dtype)
        if images.shape != shape:  # the other way round
            images = laid_out((shape[3], *shape[1:3], shape[0]), layouts[0], dtype)
        weights = laid_out((16, channels // groups, width, width), layouts[1], dtype)
        bias = torch.empty(16, dtype=dtype, device=CARD) if mask[2] else None
        rest = (*options, False, [0, 0], groups)
        out = aten.convolution.default(images, weights, bias, *rest)
        gradient = torch.empty_like(out)
        back = aten.convolution_backward.default(gradient, images, weights, [16], *rest, mask)
        assert [each is not None for each in back] == list(mask)
        return [out, *back]

    ruled, derived = both(monkeypatch, run)
    assert ruled == derived


def test_numbers_that_are_lifted_keep_their_value() -> None:
    with card().entered():
        number = torch.tensor(3.5)
        assert type(number) is FakeTensor
        assert number.item() == 3.5
        number.add_(1)
        assert number.dtype is torch.float32
        assert torch.tensor([1, 2]).shape == (2,)


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
    monkeypatch.setattr(recipes, "RULES", {aten.silu_backward.default: spying})
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
