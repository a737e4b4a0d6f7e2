"""Stands in for torch's compiler where nothing is compiled: importing it takes 1.5 s."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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
    for name, known in parts.items():
        module = _StandIn(name, known)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = places.get(name, [])
        sys.modules[name] = module
    sys.meta_path.insert(0, _Finder())
    importlib.import_module(f"{_NAME}.config")


class _StandIn(ModuleType):
    """A module with a few names of its own; any other is the real module's."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Finder(MetaPathFinder):
    """Finds the compiler's other modules, for which all of it has to be there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that came with the compiler; None of any other."""
        del path, target
        parent = name.rpartition(".")[0]
        if not name.startswith((f"{_NAME}.", f"{_BACKEND}.")) or name in _SETTINGS:
            return None
        if not isinstance(sys.modules.get(parent), _StandIn):
            return None
        _real(parent)
        known = sys.modules.get(name)
        return None if known is None else ModuleSpec(name, _Known(known))


class _Known(Loader):
    """Hands over a module that is there already."""

    def __init__(self, known: ModuleType) -> None:
        self._known, self._spec = known, known.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        del spec
        return self._known

    def exec_module(self, module: ModuleType) -> None:
        """It has run; only its spec was exchanged."""
        module.__spec__ = self._spec


def _places_of(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _real(name: str) -> ModuleType:
    """The real module of that name, which takes the place of its stand-in."""
    for known, module in list(sys.modules.items()):
        if isinstance(module, _StandIn):
            del sys.modules[known]
    module = importlib.import_module(name)
    for known in _SETTINGS & sys.modules.keys():  # imported before their packages
        package, _, end = known.rpartition(".")
        if package in sys.modules:
            setattr(sys.modules[package], end, sys.modules[known])
    return module


def _as_it_is(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """As `torch._dynamo.disable` where nothing is compiled, called directly or as a decorator."""
    del args, kwargs
    return (lambda decorated: decorated) if function is None else function


def _nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs


def _is_compile_supported(device_type: str) -> bool:
    ask: Callable[[str], bool] = _real(f"{_NAME}.utils").is_compile_supported
    return ask(device_type)
