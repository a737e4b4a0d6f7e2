"""Stands in for torch's compiler where nothing is compiled: importing it takes 1.5 s."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from orchestrator.device.stand_in import real_module, stand_in

__all__ = ["stand_in_for_compiler"]

_NAME = "torch._dynamo"
_BACKEND = "torch._inductor"
_SETTINGS = {  # modules that do without the rest of the compiler, and their settings are the real
    f"{_NAME}.config",
    f"{_BACKEND}.config",
    f"{_BACKEND}.custom_graph_pass",
}
# What fake tensors ask whether a source is one of, where there is none.
_ASKED_AFTER = ("RandomValueSource", "CallMethodItemSource", "FloatTensorSource")


def stand_in_for_compiler() -> None:
    """Keep torch's compiler from being imported by those who only tell it to keep out.

    torchvision, optimizers, fake tensors and the switch to deterministic operators import it, and
    use of it what does nothing outside of a compilation, and its settings, which are the real ones.
    Whoever asks for anything else gets it: then the compiler is imported after all. Call it before
    the first of them is imported; where the compiler is there already, nothing happens.
    """
    import torch._guards

    if _NAME in sys.modules or _BACKEND in sys.modules:
        return
    places = {name: _places_of(name) for name in (_NAME, _BACKEND)}
    if not all(places.values()):
        return

    class Named(torch._guards.Source):
        """`ConstantSource`: by what name a tensor of unknown origin is known."""

        def __init__(self, name: str) -> None:
            self.source_name = name

        @property
        def _name_template(self) -> str:
            return self.source_name

    sources = {name: type(name, (torch._guards.Source,), {}) for name in _ASKED_AFTER}
    parts: dict[str, dict[str, Any]] = {
        _NAME: {"disable": _as_it_is, "graph_break": _nothing},
        f"{_NAME}.utils": {"is_compile_supported": _is_compile_supported},
        f"{_NAME}.source": {"ConstantSource": Named, **sources},
        _BACKEND: {},
    }
    stand_in(parts, places, _SETTINGS)
    importlib.import_module(f"{_NAME}.config")


def _places_of(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _as_it_is(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """As `torch._dynamo.disable` where nothing is compiled, called directly or as a decorator."""
    del args, kwargs
    return (lambda decorated: decorated) if function is None else function


def _nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs


def _is_compile_supported(device_type: str) -> bool:
    ask: Callable[[str], bool] = real_module(f"{_NAME}.utils").is_compile_supported
    return ask(device_type)
