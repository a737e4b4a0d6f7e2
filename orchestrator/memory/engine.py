"""The backward pass, walked in Python: autograd's engine refuses fake CUDA tensors without a GPU.

A build of torch with CUDA asks the driver for a context before it runs a graph that holds CUDA
tensors, and there is none. Nodes can be called from Python, so the graph is walked here in the
order of `torch/csrc/autograd/engine.cpp`: highest sequence number first, gradients accumulated at
once, and what a node saved dropped as soon as it has run.
"""

import heapq
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["Engine"]


class _Saved:
    """A tensor that a node saved."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


class _Ready:
    """A node all of whose gradients have come in."""

    __slots__ = ("gradients", "key", "node")

    def __init__(self, node: Any, gradients: list[Any], tick: int) -> None:
        # Accumulating nodes have the highest numbers of all, so they run at once.
        self.key = (-node._sequence_nr(), -tick)
        self.node = node
        self.gradients: list[Any] | None = gradients

    def __lt__(self, other: "_Ready") -> bool:
        return self.key < other.key


class Engine:
    """Stands in for autograd's engine while it is `installed`.

    Supports what a training step needs: one backward pass per graph, from a scalar, into the
    `.grad` of leaves; non-reentrant checkpointing. Not: `create_graph`, `retain_graph`, gradients
    of chosen inputs, hooks on tensors.
    """

    def __init__(self) -> None:
        self._task = 0
        self._unpacked: list[_Saved] = []

    def around(self, node: Any) -> AbstractContextManager[None]:
        """Context for running a node."""
        del node
        return nullcontext()

    def accumulated(self, gradient: Tensor) -> None:
        """Called with what became the `.grad` of a leaf."""

    def began(self) -> None:
        """Called before a backward pass."""

    def ended(self) -> None:
        """Called after a backward pass."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the place of autograd's engine, for graphs whose forward pass ran inside, too."""
        original = torch.autograd.backward
        torch.autograd.backward = self._backward
        try:
            with torch.autograd.graph.saved_tensors_hooks(_Saved, self._unpack):
                yield
        finally:
            torch.autograd.backward = original

    def _unpack(self, saved: _Saved) -> Tensor:
        if saved.tensor is None:
            raise RuntimeError("a saved tensor was asked for twice: is the graph used again?")
        self._unpacked.append(saved)
        return saved.tensor

    def _backward(self, tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        if any(args) or any(kwargs.values()):
            raise RuntimeError("a backward pass with retain_graph, create_graph or inputs")
        loss = tensors if isinstance(tensors, Tensor) else tensors[0]
        gradient = grad_tensors if isinstance(grad_tensors, Tensor | None) else grad_tensors[0]
        self.began()
        # Checkpointing recomputes once per task of the C++ engine; outside of it there is none,
        # and it would recompute for every saved tensor.
        self._task += 1
        task = self._task
        original = torch._C._current_graph_task_id
        torch._C._current_graph_task_id = lambda: task
        try:
            with torch.no_grad():
                self._walk(loss, gradient)
        finally:
            torch._C._current_graph_task_id = original
        self.ended()

    def _walk(self, loss: Tensor, gradient: Tensor | None) -> None:
        root = loss.grad_fn
        if root is None:
            raise RuntimeError("the loss does not require gradients")
        waiting = _in_degrees(root)
        buffers: dict[Any, list[Any]] = {}
        first = torch.ones_like(loss) if gradient is None else gradient
        heap = [_Ready(root, [first], 0)]
        del root, first
        tick = 0
        node: Any
        gradients: Any
        edges: Any
        found: Any
        while heap:
            ready = heapq.heappop(heap)
            node, gradients = ready.node, ready.gradients
            del ready
            edges = node.next_functions
            with self.around(node):
                found = self._run(node, gradients)
                gradients = None
                for saved in self._unpacked:
                    saved.tensor = None
                self._unpacked.clear()
                node = None  # releases it, unless Python holds a tensor of the graph
                tick = _hand_over(found, edges, buffers, waiting, heap, tick)
            edges = found = None

    def _run(self, node: Any, gradients: list[Any] | None) -> list[Any]:
        assert gradients is not None
        if hasattr(node, "variable"):
            self._accumulate(node.variable, gradients)
            return []
        if isinstance(node, BackwardCFunction):
            _materialize(node, gradients)
            found = node.apply(*gradients)
        else:
            if type(node).__name__ == "UnbindBackward0":
                _fill(gradients)
            found = node(*gradients)
        gradients.clear()
        return list(found) if isinstance(found, list | tuple) else [found]

    def _accumulate(self, leaf: Any, gradients: list[Any]) -> None:
        """As torch/csrc/autograd/functions/accumulate_grad.h: steal, copy, or add in place."""
        gradient = gradients.pop()
        if gradient is None:
            return
        if leaf.grad is not None:
            leaf.grad.add_(gradient)
            return
        is_free = sys.getrefcount(gradient) <= 2 and _is_alone(gradient)
        if is_free and gradient.stride() == leaf.stride():
            leaf.grad = gradient.detach()
        else:
            copy = torch.empty_strided(
                leaf.shape, leaf.stride(), dtype=gradient.dtype, device=gradient.device
            )
            leaf.grad = copy.copy_(gradient)
        self.accumulated(leaf.grad)


def _in_degrees(root: Any) -> dict[Any, int]:
    degrees: dict[Any, int] = {}
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            degrees[node] = degrees.get(node, 0) + 1
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return degrees


def _hand_over(
    found: list[Any],
    edges: Any,
    buffers: dict[Any, list[Any]],
    waiting: dict[Any, int],
    heap: list[_Ready],
    tick: int,
) -> int:
    """Give a node's gradients to the nodes that follow; those that have all of theirs are ready."""
    for index, (following, slot) in enumerate(edges):
        if following is None:
            continue
        buffer = buffers.get(following)
        if buffer is None:
            buffer = buffers[following] = [None] * len(following._input_metadata)
        if index < len(found) and found[index] is not None:
            _pass_on(following, slot, found, index, buffer)
        waiting[following] -= 1
        if not waiting[following]:
            tick += 1
            heapq.heappush(heap, _Ready(following, buffers.pop(following), tick))
            del waiting[following]
    return tick


def _pass_on(node: Any, slot: int, found: list[Any], index: int, buffer: list[Any]) -> None:
    """Make a gradient fit the input that it belongs to (`validate_outputs`), and add it up there.

    The buffer's gradient is added to in place where nothing else uses it, as in
    torch/csrc/autograd/input_buffer.cpp.
    """
    gradient = found[index]
    found[index] = None
    expected = node._input_metadata[slot]
    if gradient.dtype != expected.dtype:
        gradient = gradient.to(expected.dtype)
    if tuple(gradient.shape) != tuple(expected.shape):
        gradient = gradient.sum_to_size(tuple(expected.shape))
    before = buffer[slot]
    if before is None:
        buffer[slot] = gradient
    # held by the buffer, by `before`, and by the argument of getrefcount
    elif sys.getrefcount(before) <= 3 and _is_alone(before):
        before.add_(gradient)
    else:
        buffer[slot] = before + gradient


def _is_alone(tensor: Tensor) -> bool:
    """True when no other tensor uses the storage.

    One use is the tensor's, and one that of the storage's Python object.
    """
    if tensor._base is not None:
        return False
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) <= 2


def _materialize(node: Any, gradients: list[Any]) -> None:
    if not getattr(node, "materialize_grads", True):
        return
    for index, gradient in enumerate(gradients):
        if gradient is None:
            made = node._input_metadata[index]
            gradients[index] = torch.zeros(tuple(made.shape), dtype=made.dtype, device=made.device)


def _fill(gradients: Iterable[Any]) -> None:
    """Zeros for pieces of an unbound tensor that nothing used: one number, expanded."""
    assert isinstance(gradients, list)
    like = next(g for g in gradients if g is not None)
    zero = like.new_zeros(())
    gradients[:] = [zero.expand(like.shape) if g is None else g for g in gradients]
