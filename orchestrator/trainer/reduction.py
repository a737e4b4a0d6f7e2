"""Sums the gradients of all ranks: bucket by bucket, while the last backward pass still runs.

Gradients live in flat buffers from the first piece of a step on, so that nothing is copied to be
sent. A bucket is sent when the last of its gradients is whole, and always after the one before it:
every rank sends the same buckets in the same order. A rank that runs out of memory sends what is
left of that order as well, before all agree to repeat the step: nobody waits for a bucket that
does not come. Sending takes no memory, since every buffer is there from the beginning.

    begin()  pieces ... [exchanged()]  sending(): the last backward   complete()
                                                                      or abandon(), and once more
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn

from orchestrator.trainer.compression import Low, low_of
from orchestrator.trainer.lockstep import Lockstep
from orchestrator.trainer.options_ddp import Compression, DdpOptions
from orchestrator.types import Bytes

__all__ = ["Reduction"]


@dataclass(slots=True)
class _Bucket:
    """Gradients that travel together: a flat buffer, and a view of it for each parameter."""

    parameters: list[nn.Parameter]
    buffer: Tensor
    views: list[Tensor]
    low: Tensor | None  # in half precision, where they travel so
    missing: int = 0
    work: Any = None
    slices: list[Tensor] = field(default_factory=list)  # of the buffer, as one row each


class Reduction:
    """The gradients of one model on one rank of several.

    Args:
        parameters: In the order of the forward pass; the backward pass fills them from the end.
        options: How gradients travel.
        num_ranks: That sum their gradients.
        num_exchanged: Numbers that `exchanged` sums in each step; 0 where it is never called.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        options: DdpOptions,
        num_ranks: int,
        *,
        num_exchanged: int = 0,
    ) -> None:
        self._num_ranks = num_ranks
        trained = [p for p in parameters if p.requires_grad]
        self._low: Low | None = low_of(options, num_ranks)
        half = {Compression.FP16: torch.float16, Compression.BF16: torch.bfloat16}
        dtype = half.get(options.compression)
        self._buckets = [
            _bucket(group, dtype) for group in _grouped(trained, options.bucket_mb << 20)
        ]
        # What a low-rank sum keeps from step to step must not see a step that is repeated.
        self._is_early = options.overlap and self._low is None
        device = trained[0].device
        self._numbers = torch.zeros(num_exchanged, device=device)
        self._has_exchanged = num_exchanged == 0
        self._lockstep: Lockstep | None = None
        self._is_sending = False
        self._next = 0
        self._idle: list[tuple[nn.Parameter, Tensor]] | None = None
        self._seen: set[int] = set()
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def join(self, lockstep: Lockstep) -> None:
        """From now on ranks make one sum at a time: buckets are sent after the step's others."""
        self._lockstep, self._is_early = lockstep, False

    @property
    def num_bytes(self) -> Bytes:
        """Bytes that a rank hands over in a step, before they are multiplied by the way."""
        if self._low is not None and self._low.num_bytes:
            return self._low.num_bytes
        sent = [b.buffer if b.low is None else b.low for b in self._buckets]
        return sum(tensor.numel() * tensor.element_size() for tensor in sent)

    @property
    def num_buckets(self) -> int:
        """Messages of a step."""
        return len(self._buckets)

    def begin(self) -> None:
        """Clear every gradient and put it into its bucket, before the first piece."""
        self._is_sending, self._next = False, 0
        self._has_exchanged = not len(self._numbers)
        for bucket in self._buckets:
            bucket.buffer.zero_()
            bucket.missing = len(bucket.parameters)
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view

    def exchanged(self, numbers: Tensor) -> Tensor:
        """Sum numbers over the ranks, once in a step and before `sending`."""
        if self._lockstep is not None:
            return self._lockstep.summed(numbers).to(numbers.dtype)
        self._numbers.copy_(numbers)
        return self._exchange().clone()

    def _exchange(self) -> Tensor:
        self._has_exchanged = True
        distributed.all_reduce(self._numbers)
        return self._numbers

    def around(self, is_last: bool) -> AbstractContextManager[None]:  # noqa: FBT001 - as `run_pieces` asks
        """For `run_pieces`: the context of a piece."""
        return self.sending() if is_last else nullcontext()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the last backward pass of a step."""
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
        if self._is_early:
            self._send_rest()

    def abandon(self) -> None:
        """Let the other ranks end a step that this one cannot, or that will be repeated."""
        self._is_sending = False
        if not self._has_exchanged and self._lockstep is None:
            self._numbers.zero_()
            self._exchange()
        if self._is_early:
            self._send_rest()
            self._wait()

    def complete(self) -> None:
        """Every rank has run the step: the gradients are the sums of all ranks from here on.

        A parameter that no rank has used has none, as on one rank.
        """
        if self._low is not None:
            for index, bucket in enumerate(self._buckets):
                is_last = index == len(self._buckets) - 1
                self._low.reduce(index, bucket.buffer, bucket.slices, is_last=is_last)
        else:
            self._send_rest()
            self._wait()
        self._drop_unused()

    def _hook(self, bucket: _Bucket) -> Any:
        def gradient_is_whole(parameter: Tensor) -> None:
            if self._idle is None:
                self._seen.add(id(parameter))
            if self._is_sending and self._is_early:
                bucket.missing -= 1
                while self._next < len(self._buckets) and not self._buckets[self._next].missing:
                    self._send()

        return gradient_is_whole

    def _send(self) -> None:
        bucket = self._buckets[self._next]
        self._next += 1
        sent = bucket.buffer if bucket.low is None else bucket.low.copy_(bucket.buffer)
        bucket.work = distributed.all_reduce(sent, async_op=True)

    def _send_rest(self) -> None:
        while self._next < len(self._buckets):
            self._send()

    def _wait(self) -> None:
        for bucket in self._buckets:
            if bucket.work is not None:
                bucket.work.wait()
                bucket.work = None
                if bucket.low is not None:
                    bucket.buffer.copy_(bucket.low)

    def _drop_unused(self) -> None:
        if self._idle is None:  # asked once: layers that a model never uses are the same ones
            pairs = [p for b in self._buckets for p in zip(b.parameters, b.views, strict=True)]
            used = torch.tensor([float(id(p) in self._seen) for p, _ in pairs])
            used = used.to(pairs[0][1].device)
            distributed.all_reduce(used, op=distributed.ReduceOp.MAX)
            self._idle = [pair for pair, is_used in zip(pairs, used.tolist(), strict=True)
                          if not is_used]  # fmt: skip
            self._seen.clear()
        for parameter, view in self._idle:
            if not bool(view.any()):
                parameter.grad = None


def _grouped(parameters: list[nn.Parameter], most: Bytes) -> Iterator[list[nn.Parameter]]:
    """Groups of one type and device, of at most so many bytes, the last parameters first."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in reversed(parameters):
        num_bytes = parameter.numel() * parameter.element_size()
        is_other = bool(group) and (parameter.dtype, parameter.device) != (
            group[0].dtype,
            group[0].device,
        )
        if group and (is_other or size + num_bytes > most):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += num_bytes
    if group:
        yield group


def _bucket(parameters: list[nn.Parameter], half: torch.dtype | None) -> _Bucket:
    sizes = [p.numel() for p in parameters]
    first = parameters[0]
    buffer = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
    rows = buffer.split(sizes)
    return _Bucket(
        parameters=parameters,
        buffer=buffer,
        views=[_as_laid_out(row, p) for row, p in zip(rows, parameters, strict=True)],
        low=None if half is None else torch.zeros_like(buffer, dtype=half),
        slices=[row.view(p.shape or (1,)) for row, p in zip(rows, parameters, strict=True)],
    )


def _as_laid_out(row: Tensor, parameter: Tensor) -> Tensor:
    """A view with the strides of the parameter, which fast updates of the optimizer ask for."""
    if torch._debug_has_internal_overlap(parameter) != 0 or not _is_dense(parameter):
        return row.view(parameter.shape)
    return torch.as_strided(row, parameter.shape, parameter.stride(), row.storage_offset())


def _is_dense(tensor: Tensor) -> bool:
    """True when its elements fill a block of memory without a gap, in any order of axes."""
    expected = 1
    for size, stride in sorted(
        zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]
    ):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
