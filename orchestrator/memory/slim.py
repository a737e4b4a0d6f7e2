"""Keeps out of a process that only traces what torch imports for other uses, a second's worth."""

import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch.utils._ordered_set import OrderedSet

from orchestrator.device.eager import stand_in_for_compiler
from orchestrator.device.stand_in import real_module, stand_in

__all__ = ["make_slim"]

_SIZES = "torch.fx.experimental.symbolic_shapes"


def make_slim() -> None:
    """Stand in for torch's compiler, its symbolic sizes, and its tensors that ranks share.

    A trace compiles nothing, each of its sizes is a number, and it has one rank; fake tensors,
    operators and optimizers import all of it to ask whether it is otherwise. Call it in a process
    that does nothing but trace, before the first trace. What is imported already stays; whoever
    asks for anything else gets it.
    """
    stand_in_for_compiler()
    # what knows symbols goes together: the real modules of it need each other
    _stand_in(
        {
            "sympy": {"Basic": _NoSymbol},
            "torch.utils._sympy.functions": {"Max": max},
            _SIZES: _of_numbers(),
        }
    )
    _stand_in({"torch.distributed.tensor": {"DTensor": _NoTensor}})


def _stand_in(parts: Mapping[str, Mapping[str, Any]]) -> None:
    if any(name in sys.modules for name in parts):
        return
    found = {name: importlib.util.find_spec(name) for name in parts}
    places: dict[str, list[str]] = {}
    for name, spec in found.items():
        if spec is None:
            return
        if spec.submodule_search_locations is not None:
            places[name] = list(spec.submodule_search_locations)
    stand_in(parts, places)
    for name in parts:
        package, _, end = name.rpartition(".")
        if package:
            setattr(sys.modules[package], end, sys.modules[name])


class _NoTensor:
    """`DTensor`, of which there are none."""


class _NoSymbol:
    """A term of symbols, of which there are none."""


class _NotKnownError(RuntimeError):
    """`GuardOnDataDependentSymNode`, which only sizes that are no numbers raise."""


def _of_numbers() -> dict[str, Any]:
    """What is asked of sizes, for numbers; of anything else the real functions are asked."""
    numbers, flags = (int, float, bool), (bool,)
    itself = {
        "expect_true": flags,
        "guard_or_false": flags,
        "guard_or_true": flags,
        "guard_size_oblivious": flags,
        "statically_known_true": flags,
        "guard_int": (int,),
        "guarding_hint_or_throw": (int, bool),
    }
    answers: dict[str, Any] = {
        name: _answer(name, kinds, _itself) for name, kinds in itself.items()
    }
    return answers | {
        "sym_and": _of_flags("sym_and", all),
        "sym_or": _of_flags("sym_or", any),
        "sym_eq": _are_equal,
        "has_guarding_hint": _answer("has_guarding_hint", numbers, lambda _: True),
        "is_nested_int": _answer("is_nested_int", numbers, lambda _: False),
        "is_symbolic": _answer("is_symbolic", numbers, lambda _: False),
        # without an environment for symbols, which a trace does not have, there are none
        "free_unbacked_symbols": lambda _: OrderedSet[Any](),
        "compute_unbacked_bindings": _bindings,
        "GuardOnDataDependentSymNode": _NotKnownError,
    }


def _answer(name: str, kinds: Collection[type], answer: Callable[[Any], Any]) -> Callable[..., Any]:
    def ask(value: Any, *rest: Any) -> Any:
        return answer(value) if type(value) in kinds else _real(name)(value, *rest)

    return ask


def _itself(value: Any) -> Any:
    return value


def _of_flags(name: str, answer: Callable[[Iterable[bool]], bool]) -> Callable[..., Any]:
    def ask(*values: Any) -> Any:
        are_flags = all(type(value) is bool for value in values)
        return answer(values) if are_flags else _real(name)(*values)

    return ask


def _are_equal(one: Any, other: Any) -> Any:
    if type(one) is int and type(other) is int:
        return one == other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return False
        if all(type(each) is int for each in (*one, *other)):
            return tuple(one) == tuple(other)
    return _real("sym_eq")(one, other)


def _bindings(environment: Any, *rest: Any, **named: Any) -> Any:
    if environment is None:
        return None
    return _real("compute_unbacked_bindings")(environment, *rest, **named)


def _real(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(real_module(_SIZES), name)
    return found
