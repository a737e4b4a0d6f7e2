"""What an operator can do to the set of live storages, read off its schema."""

from enum import Enum, auto
from typing import Any

import torch

__all__ = ["KINDS", "LOADER_ENTER", "Kind", "classify"]


class Kind(Enum):
    """What an operator can do to the set of live storages."""

    FRESH = auto()  # may return new storages
    VIEW = auto()  # neither reads nor makes memory
    IN_PLACE = auto()  # returns nothing but its inputs
    RESIZE = auto()  # may change the storage of a tensor that it was given
    MARK = auto()  # a named region of the profiler begins or ends


LOADER_ENTER = torch.ops.profiler._record_function_enter_new.default
KINDS: dict[object, Kind] = {
    LOADER_ENTER: Kind.MARK,
    torch.ops.profiler._record_function_exit._RecordFunction: Kind.MARK,
}


def classify(func: Any) -> Kind:
    """Read off the operator's schema what it can do to storages, once per operator."""
    schema = func._schema
    is_resizing = schema.name in ("aten::set_", "aten::resize_", "aten::resize_as_")
    if is_resizing or any(argument.is_out for argument in schema.arguments):
        kind = Kind.RESIZE
    elif func.is_view:
        kind = Kind.VIEW
    elif all(result.alias_info is not None for result in schema.returns):
        kind = Kind.IN_PLACE
    else:
        kind = Kind.FRESH
    KINDS[func] = kind
    return kind
