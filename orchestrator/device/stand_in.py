"""Stands in for modules that take long to import, where hardly anything of them is used."""

import importlib
import sys
from collections.abc import Collection, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["StandIn", "real_module", "stand_in"]


class StandIn(ModuleType):
    """A module with a few names of its own; any other is the real module's."""

    def __init__(self, name: str, known: Mapping[str, Any], group: Collection[str]) -> None:
        super().__init__(name)
        self.__dict__.update(known)
        self._group = group

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(real_module(self.__name__), name)


class _Finder(MetaPathFinder):
    """Finds other modules of packages that are stood in for: all of these have to be there."""

    def __init__(self, packages: Collection[str], settings: Collection[str]) -> None:
        self.packages = tuple(f"{package}." for package in packages)
        self.settings = settings

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that came with the real package; None of any other."""
        del path, target
        parent = name.rpartition(".")[0]
        if not name.startswith(self.packages) or name in self.settings:
            return None
        if not isinstance(sys.modules.get(parent), StandIn):
            return None
        real_module(parent)
        known = sys.modules.get(name)
        if known is None:
            return None
        loader = _Known(known)
        known.__spec__ = None  # else Python would run it once more, by the spec that it has
        return ModuleSpec(name, loader)


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


def stand_in(
    parts: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, list[str]],
    settings: Collection[str] = (),
) -> None:
    """Put stand-ins where modules would be imported from.

    Whoever asks one of them for a name that it does not have gets the real module's; then all that
    are named here are imported after all.

    Args:
        parts: The names that a stand-in has, by its own.
        places: The folders of those that are packages.
        settings: Modules of the packages that do without the rest, and are imported as they are.
    """
    for name, known in parts.items():
        module = StandIn(name, known, tuple(parts))
        module.__spec__ = ModuleSpec(name, None)
        if name in places or any(other.startswith(f"{name}.") for other in parts):
            module.__path__ = places.get(name, [])
        sys.modules[name] = module
    sys.meta_path.insert(0, _Finder(places, settings))


def real_module(name: str) -> ModuleType:
    """The real module of that name, which takes the place of its stand-in."""
    settings: Collection[str] = ()
    module = sys.modules.get(name)
    if isinstance(module, StandIn):
        for member in module._group:
            if isinstance(sys.modules.get(member), StandIn):
                del sys.modules[member]
        settings = {s for f in sys.meta_path if isinstance(f, _Finder) for s in f.settings}
    module = importlib.import_module(name)
    for known in settings & sys.modules.keys():  # imported before their packages
        package, _, end = known.rpartition(".")
        if package in sys.modules:
            setattr(sys.modules[package], end, sys.modules[known])
    return module
