"""Operators that torch's fake tensors hand to their meta kernels as they are; no detour."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table, meta_table
from torch._meta_registrations import cpp_meta_supports_symint_ops
from torch._subclasses.fake_impls import has_meta, op_implementations_checks
from torch._subclasses.fake_tensor import (
    FakeTensorMode,
    in_kernel_invocation_manager,
    torch_decomp_decompositions,
)

__all__ = ["is_plain", "run_plain"]


def is_plain(func: Any) -> bool:
    """Whether nothing but its meta kernel, in C++ or Python, decides what an operator returns.

    It asks in the order of torch/_subclasses/fake_tensor.py, `FakeTensorMode._dispatch_impl`, for
    tensors that are fake, and sizes that are numbers.
    """
    if func.namespace != "aten":
        return False
    is_meta = func in meta_table or func in cpp_meta_supports_symint_ops
    if not is_meta and torch.Tag.view_copy not in func.tags:
        if func in decomposition_table and torch_decomp_decompositions(func):
            return False
        if func._can_decompose():
            return False
    if torch._library.simple_registry.singleton.find(func.name()).fake_impl.kernel:
        return False
    return has_meta(func) and not any(is_own(func) for is_own, _ in op_implementations_checks)


def run_plain(
    mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """What the meta kernel returns for fake tensors: tensors on the meta device, or an argument."""
    with in_kernel_invocation_manager(mode):
        return func(*args, **kwargs)
