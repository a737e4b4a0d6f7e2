"""What torch is told about a card that is not there, so that a step takes the paths of a card."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Self

import torch
import torch.cuda.amp.common
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import _foreach_supported_types as _of_optimizers
from torch.utils._foreach_utils import _foreach_supported_types as _of_clipping

__all__ = ["posing_as_card"]

# timm's optimizers take so many bytes of weights at once, at most 96 MiB on the largest cards; the
# temporaries of an update grow with it.
_L2_BYTES = 96 << 20


class _HostGenerator(torch.Generator):
    """A source of chance on the host, whatever device it is asked for."""

    def __new__(cls, device: object = None) -> Self:
        del device
        return super().__new__(cls)


@contextmanager
def posing_as_card(*, has_flash: bool) -> Iterator[None]:
    """Answer for a card of compute capability 8.6, or 7.5 without flash attention.

    Without it, autocast and gradient scalers switch themselves off for want of a GPU. Optimizers
    and clipping choose their kernels by the exact type of tensors: fakes are let in.
    """
    major, minor = (8, 6) if has_flash else (7, 5)
    properties = SimpleNamespace(
        name="card",
        major=major,
        minor=minor,
        L2_cache_size=_L2_BYTES,
        multi_processor_count=80,
        total_memory=1 << 40,
    )
    answers: tuple[tuple[Any, str, Any], ...] = (
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (torch.cuda, "get_device_capability", lambda *_: (major, minor)),
        (torch.cuda, "get_rng_state", lambda *_: None),
        (torch.cuda, "set_rng_state", lambda *_: None),
        (torch, "Generator", _HostGenerator),
    )
    with ExitStack() as stack:
        for place, name, answer in answers:
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, answer)
        lists: tuple[list[Any], ...] = (_of_optimizers, _of_clipping)
        for types in lists:
            types.append(FakeTensor)
            stack.callback(types.remove, FakeTensor)
        yield
