"""What was packed comes back: values, dtypes, shapes, layouts, also through a safe load."""

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.trainer.pack import own_state, pack, unpack
from orchestrator.trainer.randomness import load_state, save_state

DTYPES = (torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool)
LAYOUTS = (
    lambda t: t,
    lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t,
    lambda t: t.transpose(0, -1) if t.ndim > 1 else t,
    lambda t: t[..., ::2] if t.ndim else t,
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
TENSORS = st.builds(
    lambda shape, dtype, layout: layout((torch.rand(shape) * 9).to(dtype)),
    SHAPES,
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
)
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
STATES = st.recursive(
    TENSORS | PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


@given(state=STATES)
def test_a_state_comes_back_through_a_file_that_loads_safely(state: Any) -> None:
    file = io.BytesIO()
    save_state({"state": state}, file)
    file.seek(0)
    assert_same({"state": state}, load_state(file))


def test_channels_last_is_kept() -> None:
    tensor = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert unpack(pack([tensor]))[0].stride() == tensor.stride()


def test_a_pool_that_is_too_short_is_refused() -> None:
    packed = pack({"a": torch.arange(6.0)})
    packed["pools"] = [pool[:-1] for pool in packed["pools"]]
    with pytest.raises(ValueError, match="cut off"):
        unpack(packed)


def test_a_tensor_without_a_place_is_refused() -> None:
    packed = pack({"a": torch.rand(2), "b": torch.rand(2)})
    packed["places"] = packed["places"][: len(packed["places"]) // 2]
    with pytest.raises(ValueError, match="no place"):
        unpack(packed)


def test_a_state_larger_than_a_pool_comes_back_from_several() -> None:
    state = [torch.arange(4_000_000), torch.rand(3), torch.arange(9_000_000.0), torch.rand(2)]
    packed = pack(state)
    sizes = sorted(pool.nbytes for pool in packed["pools"])
    assert sizes == [12 + 8, 32_000_000, 36_000_000]
    assert_same(state, unpack(packed))


def test_a_file_of_tensors_that_is_no_state_is_refused() -> None:
    file = io.BytesIO()
    torch.save({"weights": torch.rand(2)}, file)
    file.seek(0)
    with pytest.raises(ValueError, match="not a state"):
        load_state(file)


def test_an_optimizer_that_was_restored_keeps_no_pool_alive() -> None:
    def stepped() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.rand(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = stepped()
    loaded = unpack(pack({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    _, fresh = stepped()
    fresh.load_state_dict(loaded["optimizer"])
    own_state(fresh)
    assert_same(fresh.state_dict()["state"], optimizer.state_dict()["state"])
    for state in fresh.state.values():
        for name, value in state.items():
            assert value.untyped_storage().nbytes() == value.nbytes, name
            assert name == "step" or value.stride() in {(27, 1, 9, 3), (1,)}
