"""Tensors without memory: a dispatch mode over torch's fake tensors that logs storages, quickly.

torch's `FakeTensorMode` works out an operator's result from the sizes of its inputs. It takes some
0.2 ms an operator; a step repeats most of them, so results are remembered here by the inputs'
sizes, strides and types, and operators over lists of tensors, which ask for no memory but their
results', are not looked into at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.memory.answers import Answers
from orchestrator.memory.plain import is_plain, run_plain
from orchestrator.memory.recipes import (
    FRESH,
    INPUT,
    VIEW,
    CannotKeepError,
    key_of,
    key_of_options,
    recipe_by_rule,
    recipe_of,
)
from orchestrator.memory.special import ASKING, SPECIAL, is_on_lists, on_lists
from orchestrator.memory.tracker import Tracker

__all__ = ["FakeCard", "Memory"]

_META = torch.device("meta")
_COPY = torch.ops.aten._to_copy.default
_DEVICE_OF = torch.ops.prim.device.default
_EMPTY_LIKE = torch.ops.aten.empty_like.default
_LIFT = torch.ops.aten.lift_fresh.default
_NEVER = frozenset(  # results depend on more than sizes
    {"aten::set_", "aten::resize_", "aten::resize_as_", "aten::lift_fresh"}
)


class Memory:
    """Results of operators by their inputs, shared by the traces of a process."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = {}
        self.is_cacheable: dict[Any, bool] = {}
        self.is_plain: dict[Any, bool] = {}


class _OneMode(FakeTensorMode):
    """Stays itself where a model is copied.

    A copy of a fake tensor, such as a parameter of the averaged model, would have a copy of the
    mode otherwise: torch takes that for somebody else's, and converts the tensor at its first
    operator into one with a storage of its own, which nobody allocates.
    """

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


class FakeCard(TorchDispatchMode):
    """Runs operators on fake tensors and shows the storages on its device to a tracker.

    Args:
        tracker: Is shown every storage on the device.
        answers: For operators whose results depend on data.
        device: That the tensors pretend to be on.
        memory: Of earlier traces.
    """

    def __init__(
        self, tracker: Tracker, answers: Answers, device: torch.device, memory: Memory
    ) -> None:
        super().__init__()
        self.fakes = _OneMode(allow_non_fake_inputs=True)
        self.fakes.cache_enabled = False  # ours is faster
        self.answers = answers
        self.stopped_at = ""
        self.tracker = tracker
        self._type = device.type
        self._memory = memory
        self._names: dict[Any, str] = {}
        self._attributes: dict[torch.device, dict[str, Any]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so torch need not shield every call from its compiler."""
        return False

    def _fake(self, empty: Tensor, device: torch.device) -> Any:
        """`FakeTensor(mode, empty, device)`, which takes longer: its attributes are copied."""
        attributes = self._attributes.get(device)
        if attributes is None:
            made = FakeTensor(self.fakes, empty, device)
            self._attributes[device] = dict(made.__dict__)
            return made
        fake = Tensor._make_subclass(
            FakeTensor,
            empty,
            require_grad=False,
            dispatch_device=True,
            device_for_backend_keys=device,
        )
        fake.__dict__.update(attributes)
        return fake

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Every tensor made inside is fake."""
        with self.fakes, self:
            yield

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        """Find the result of an operator, and show its storages to the tracker."""
        if func is _DEVICE_OF:
            return args[0].fake_device if type(args[0]) is FakeTensor else args[0].device
        kwargs = kwargs or {}
        memory = self._memory
        is_cacheable = memory.is_cacheable.get(func)
        if is_cacheable is None:
            is_cacheable = memory.is_cacheable[func] = _is_cacheable(func)
        if not is_cacheable:
            return self._long_way(func, args, kwargs)
        tensors: list[Any] = []
        try:
            key = (func, key_of(args, tensors), key_of_options(kwargs, tensors))
        except CannotKeepError:
            return self._long_way(func, args, kwargs)
        recipe = memory.results.get(key)
        if recipe is not None:
            return self._made(recipe, tensors, func)
        recipe = recipe_by_rule(func, tensors, args, kwargs)
        if recipe is not None:
            found = self._made(recipe, tensors, func)
            self._show(found, func, args)  # what is viewed may not have been seen yet
        else:
            found = self._long_way(func, args, kwargs, tensors)
            recipe = recipe_of(found, tensors)
        if recipe is not None:
            memory.results[key] = recipe
        return found

    def _name(self, func: Any) -> str:
        name = self._names.get(func)
        if name is None:
            name = self._names[func] = str(func).removeprefix("aten.").removesuffix(".default")
        return name

    def _long_way(
        self, func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Any] = ()
    ) -> Any:
        try:
            special = SPECIAL.get(func)
            if func is _LIFT and _is_number(args[0]):
                found = self._lifted(args[0])
            elif self._is_plain(func, kwargs, tensors):
                found = self._fakes_of(
                    run_plain(self.fakes, func, args, kwargs), tensors[0].fake_device
                )
            elif special is not None:
                found = special(self.answers, func, args, kwargs)
            elif is_on_lists(func):
                found = on_lists(func, args, partial(self._empty, func))
            else:
                found = func(*args, **kwargs)
        except Exception:
            if not self.stopped_at:
                self.stopped_at = str(func)
            raise
        self._show(found, func, args)
        return found

    def _lifted(self, number: Tensor) -> Any:
        """A fake of a number on the host that knows its value, as `torch.tensor` gives it."""
        with torch._C._DisableTorchDispatch():
            value = number.clone()
            empty = torch.empty_strided(number.shape, (), dtype=number.dtype, device=_META)
        fake = self._fake(empty, number.device)
        fake.constant = value
        self.fakes.fake_tensor_converter.add_constant_storage_mapping(fake)
        return fake

    def _is_plain(self, func: Any, kwargs: Any, tensors: Sequence[Any]) -> bool:
        """Whether the result is what the meta kernel says, on the device of all arguments."""
        if not tensors or "device" in kwargs:
            return False
        is_plain_one = self._memory.is_plain.get(func)
        if is_plain_one is None:
            is_plain_one = self._memory.is_plain[func] = func not in SPECIAL and is_plain(func)
        device = tensors[0].fake_device
        return is_plain_one and all(
            tensor.fake_device == device and tensor.dispatch_keys is None for tensor in tensors
        )

    def _fakes_of(self, found: Any, device: torch.device) -> Any:
        if isinstance(found, list | tuple):
            return type(found)([self._fakes_of(each, device) for each in found])
        is_new = isinstance(found, Tensor) and type(found) is not FakeTensor
        return self._fake(found, device) if is_new else found

    def _empty(self, func: Any, like: Any, *, is_number: bool) -> Any:
        """An element of what an operator over a list makes: a number, or a tensor like another."""
        if is_number:
            output = (FRESH, -1, (), (), 0, like.dtype, like.fake_device)
            return self._output(output, (), func)
        key = (_EMPTY_LIKE, key_of((like,), []), ())
        recipe = self._memory.results.get(key)
        if recipe is None:
            recipe = self._memory.results[key] = recipe_of(torch.empty_like(like), [like])
        return self._made(recipe, (like,), func)

    def _show(self, found: Any, func: Any, args: Sequence[Any]) -> None:
        if isinstance(found, Tensor):
            if type(found) is FakeTensor and found.fake_device.type == self._type:
                storage = found.untyped_storage()
                self.tracker.see(storage, self._name(func))
                if func is _COPY:
                    self._show_copy(found, args[0])
        elif isinstance(found, list | tuple):
            for value in found:
                self._show(value, func, args)

    def _show_copy(self, found: Tensor, source: Any) -> None:
        """A copy from the host is data; one of a weight, for autocast, is a weight."""
        if type(source) is not FakeTensor:
            return
        if source.fake_device.type != self._type:
            self.tracker.relabel(found, "data")
        elif self.tracker.part_of(source) in ("weights", "ema", "statistics"):
            self.tracker.relabel(found, self.tracker.part_of(source))

    def _made(self, recipe: Any, tensors: Sequence[Any], func: Any) -> Any:
        kind, outputs = recipe
        if kind is None:
            return self._output(outputs, tensors, func)
        return kind([self._output(output, tensors, func) for output in outputs])

    def _output(self, output: Any, tensors: Sequence[Any], func: Any) -> Any:
        if output is None:
            return None
        kind, index, shape, stride, offset, dtype, device = output
        if kind == INPUT:
            return tensors[index]
        if kind == VIEW:
            storage = tensors[index].untyped_storage()
            with torch._C._DisableTorchDispatch():
                empty = torch.empty_strided((), (), dtype=dtype, device=_META)
                empty.set_(storage, offset, shape, stride)
            return self._fake(empty, device)
        with torch._C._DisableTorchDispatch():
            empty = torch.empty_strided(shape, stride, dtype=dtype, device=_META)
        made = self._fake(empty, device)
        if device.type == self._type:
            self.tracker.see(made.untyped_storage(), self._name(func))
            if func is _COPY:
                self._show_copy(made, tensors[0])
        return made


def _is_number(value: Any) -> bool:
    """A real tensor on the host, without dimensions."""
    return (
        type(value) is Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.ndim
    )


def _is_cacheable(func: Any) -> bool:
    schema = func._schema
    return not (
        func in ASKING
        or schema.name in _NEVER
        or is_on_lists(func)
        or schema.name.split("::")[0] not in ("aten", "prims")
        or torch.Tag.data_dependent_output in func.tags
        or torch.Tag.dynamic_output_shape in func.tags
    )
