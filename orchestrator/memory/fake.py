"""Tensors without memory: a dispatch mode over torch's fake tensors that logs storages, quickly.

torch's `FakeTensorMode` works out an operator's result from the sizes of its inputs. It takes some
0.2 ms an operator; a step repeats most of them, so results are remembered here by the inputs'
sizes, strides and types, and operators over lists of tensors, which ask for no memory but their
results', are not looked into at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.memory.answers import Answers
from orchestrator.memory.rules import RULES
from orchestrator.memory.special import ASKING, SPECIAL, is_on_lists, on_lists
from orchestrator.memory.tracker import Tracker

__all__ = ["FakeCard", "Memory"]

_META = torch.device("meta")
_COPY = torch.ops.aten._to_copy.default
_DEVICE_OF = torch.ops.prim.device.default
_EMPTY_LIKE = torch.ops.aten.empty_like.default
_CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.layout, torch.device)
_NEVER = frozenset(  # results depend on more than sizes
    {"aten::set_", "aten::resize_", "aten::resize_as_", "aten::lift_fresh"}
)
_VIEW, _INPUT, _FRESH = range(3)


class _CannotCache(Exception):  # noqa: N818 - not an error: the long way is taken
    pass


class Memory:
    """Results of operators by their inputs, shared by the traces of a process."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = {}
        self.is_cacheable: dict[Any, bool] = {}


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
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
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
            key = (func, _key(args, tensors), _key_of_dict(kwargs, tensors))
        except _CannotCache:
            return self._long_way(func, args, kwargs)
        recipe = memory.results.get(key)
        if recipe is None and func in RULES and not kwargs:
            recipe = memory.results[key] = _by_rule(func, tensors, args)
        if recipe is not None:
            return self._made(recipe, tensors, func)
        found = self._long_way(func, args, kwargs)
        recipe = _recipe(found, tensors)
        if recipe is not None:
            memory.results[key] = recipe
        return found

    def _name(self, func: Any) -> str:
        name = self._names.get(func)
        if name is None:
            name = self._names[func] = str(func).removeprefix("aten.").removesuffix(".default")
        return name

    def _long_way(self, func: Any, args: Sequence[Any], kwargs: Any) -> Any:
        try:
            special = SPECIAL.get(func)
            if special is not None:
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

    def _empty(self, func: Any, like: Any, *, is_number: bool) -> Any:
        """An element of what an operator over a list makes: a number, or a tensor like another."""
        if is_number:
            output = (_FRESH, -1, (), (), 0, like.dtype, like.fake_device)
            return self._output(output, (), func)
        key = (_EMPTY_LIKE, _key((like,), []), ())
        recipe = self._memory.results.get(key)
        if recipe is None:
            recipe = self._memory.results[key] = _recipe(torch.empty_like(like), [like])
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
        if kind == _INPUT:
            return tensors[index]
        if kind == _VIEW:
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


def _key(values: Sequence[Any], tensors: list[Any]) -> tuple[Any, ...]:
    key: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            if value.constant is not None or value.dtype.is_complex or "known" in value.__dict__:
                raise _CannotCache
            tensors.append(value)
            place = (value.storage_offset(), value.fake_device)
            key.append((value.shape, value.stride(), value.dtype, *place))
        elif kind in _CONSTANTS or kind is torch.memory_format:
            key.append((kind, value))
        elif kind is list or kind is tuple:
            key.append(_key(value, tensors))
        else:
            raise _CannotCache
    return tuple(key)


def _key_of_dict(values: dict[str, Any], tensors: list[Any]) -> tuple[Any, ...]:
    if not values:
        return ()
    return (*values, *_key(tuple(values.values()), tensors))


def _recipe(found: Any, tensors: Sequence[Any]) -> Any:
    """How to make the result again, or None if that is not safe."""
    by_storage = {t.untyped_storage()._cdata: i for i, t in enumerate(tensors)}
    if isinstance(found, list | tuple):
        if not all(value is None or type(value) is FakeTensor for value in found):
            return None
        outputs = [None if v is None else _output_of(v, tensors, by_storage) for v in found]
        fresh = [
            value.untyped_storage()._cdata
            for value, output in zip(found, outputs, strict=True)
            if isinstance(output, tuple) and output[0] == _FRESH
        ]
        if False in outputs or len(set(fresh)) != len(fresh):
            return None
        return (type(found), outputs)
    if type(found) is not FakeTensor:
        return None
    output = _output_of(found, tensors, by_storage)
    return (None, output) if output else None


def _by_rule(func: Any, tensors: Sequence[Any], args: Sequence[Any]) -> Any:
    """The same, of an operator that has a rule, without its result."""
    device = tensors[0].fake_device
    outputs = [
        (_FRESH, -1, shape, stride, 0, dtype, device)
        for shape, stride, dtype in RULES[func](tensors, args)
    ]
    return (tuple, outputs) if len(outputs) > 1 else next(((None, each) for each in outputs), None)


def _output_of(value: Any, tensors: Sequence[Any], by_storage: dict[int, int]) -> Any:
    if value.constant is not None or value.dtype.is_complex or value.is_neg():
        return False
    for index, tensor in enumerate(tensors):
        if value is tensor:
            return (_INPUT, index, None, None, None, None, None)
    offset, device = value.storage_offset(), value.fake_device
    shape, stride = tuple(value.shape), value.stride()
    index = by_storage.get(value.untyped_storage()._cdata, -1)
    if index >= 0:
        return (_VIEW, index, shape, stride, offset, value.dtype, device)
    size = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    num_bytes = size * value.element_size() if value.numel() else 0
    if offset or num_bytes != value.untyped_storage().nbytes():
        return False
    return (_FRESH, -1, shape, stride, 0, value.dtype, device)
