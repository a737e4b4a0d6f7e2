"""BatchNorm over all ranks of a gang: each piece is normalised with what every rank has of it.

Ranks have n_r values a channel with mean m_r and variance v_r; together

    N = sum n_r    m = sum n_r m_r / N    v = sum n_r (v_r + m_r ** 2) / N - m ** 2

(Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979; in double precision, so that the difference keeps its digits). Backward, with the
sums over all ranks of what Ioffe and Szegedy, "Batch Normalization", 2015, section 3, derive:

    x' = (x - m) / sqrt(v + eps)
    dx = weight / sqrt(v + eps) * (dy - sum(dy) / N - x' * sum(dy * x') / N)

Gradients of weight and bias are this rank's part, as those of every other layer are. On cards
torch's `SyncBatchNorm` computes it, which refuses tensors of the host.

Layers stay what they are, of their own class and with their own tensors; only how they compute in
training is exchanged. So checkpoints have the same keys, copies that were made before (averaged
weights) are plain, and what looks for layers by class finds them. Nothing new is kept for the
backward pass: the input and two numbers a channel, as BatchNorm itself keeps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.trainer.lockstep import Lockstep
from orchestrator.trainer.ranks import Ranks

__all__ = ["NormSync", "tied"]

_LEAST_SUM = 16  # numbers: what a detector's ranks sum beside the layers


class NormSync:
    """Exchanges how a model's BatchNorm layers compute in training, in place.

    Args:
        model: Where it trains; copies that are to be plain were made before.
        ranks: Of the gang, several.
        is_told: Ranks may tell one another in a step that they cannot end it.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, *, is_told: bool = True) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        most = max((norm.num_features for norm in norms), default=0)
        is_cuda = any(t.is_cuda for t in (*model.buffers(), *model.parameters()))
        largest = max(1 + 2 * most, _LEAST_SUM)
        self.lockstep = Lockstep(ranks, largest, is_told=is_told and not is_cuda)
        self.is_counted = True
        self.num_layers = len(norms)
        together = _OnCard if is_cuda else _OnHost
        for norm in norms:
            vars(norm)["forward"] = together(norm, self)  # of this layer alone, not of its class

    @contextmanager
    def counting(self, *, is_counted: bool) -> Iterator[None]:
        """Around the forward and backward pass of a piece.

        A rank that has no sample left for it computes with one that does not count: it takes part
        in every sum with nothing, and its gradients are zero.
        """
        self.is_counted = is_counted
        try:
            yield
        finally:
            self.is_counted = True


class _Forward(ABC):
    """In the place of a layer's `forward`.

    Args:
        norm: The layer, a BatchNorm of torch or one of timm with an activation behind it.
        sync: Knows whether the piece under way counts.
    """

    def __init__(self, norm: Any, sync: NormSync) -> None:
        self._norm, self._sync = norm, sync
        self._alone: Callable[[Tensor], Tensor] = norm.forward

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...) over all ranks; while it does not train, as the layer itself."""
        if not self._norm.training:
            return self._alone(x)
        found = self._together(x)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d, in its order
            behind = getattr(self._norm, name, None)
            found = found if behind is None else behind(found)
        return found

    @abstractmethod
    def _together(self, x: Tensor) -> Tensor: ...


class _OnHost(_Forward):
    def _together(self, x: Tensor) -> Tensor:
        norm, sync = self._norm, self._sync
        found, mean, var, count = _Normalised.apply(
            x, norm.weight, norm.bias, norm.eps, sync.lockstep, sync.is_counted
        )
        if norm.track_running_stats and norm.running_mean is not None:
            self._track(mean, var * (count / (count - 1.0)))
        assert isinstance(found, Tensor)
        return found

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        norm = self._norm
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        momentum = norm.momentum  # None: the mean of all that was ever seen
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)


class _OnCard(_Forward):
    def __init__(self, norm: Any, sync: NormSync) -> None:
        super().__init__(norm, sync)
        self._twin = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        self._twin._parameters, self._twin._buffers = norm._parameters, norm._buffers

    def _together(self, x: Tensor) -> Tensor:
        norm, twin = self._norm, self._twin
        twin.training, twin.momentum = True, norm.momentum
        twin.track_running_stats = norm.track_running_stats
        if self._sync.is_counted:
            found = twin(x)
            assert isinstance(found, Tensor)
            return found
        # An empty input has no part in the sums; in single precision, as the numbers that the
        # other ranks send are.
        nothing = twin(x[:0].float())
        if norm.running_mean is None:
            return tied(x, (nothing,))
        return tied(
            functional.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            ),
            (nothing,),
        )


class _Normalised(torch.autograd.Function):
    """The formulas of the module's head."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        lockstep: Lockstep,
        is_counted: bool,  # noqa: FBT001 - autograd passes by position
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Of (N, C, ...): normalised, mean and biased variance (C,), values a channel, of all."""
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        count = float(x.numel() // x.shape[1]) if is_counted else 0.0
        first, second = mean.double(), var.double()
        own = torch.cat([first, second + first.square()]) * count
        sums = lockstep.summed(torch.cat([own, own.new_full((1,), count)]))
        total = float(sums[-1])
        if total < 2.0:
            raise ValueError("Expected more than 1 value per channel when training, on all ranks")
        first, second = (sums[:-1] / total).chunk(2)
        mean, var = first.to(mean.dtype), (second - first.square()).clamp(min=0.0).to(mean.dtype)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.lockstep, ctx.is_counted, ctx.total = lockstep, is_counted, total
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, total

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Tensor | None, ...]:
        """Of the normalised input; parts of this rank for weight and bias."""
        grad = given[0]
        x, weight, mean, invstd = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, invstd,
            train=True, eps=0.0, output_mask=[False, True, True],  # two sums a channel, no more
        )  # fmt: skip
        if not ctx.is_counted:
            of_weight, of_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        sums = ctx.lockstep.summed(torch.cat([of_bias, of_weight]))
        scale = invstd if weight is None else invstd * weight
        if ctx.is_counted:
            shift, slope = (sums / ctx.total).to(mean.dtype).chunk(2)
            # (x - mean) * factor + offset in one pass over the input
            of_input = functional.batch_norm(
                x, mean, torch.ones_like(mean), -scale * invstd * slope, -scale * shift, eps=0.0
            )
            of_input.addcmul_(grad, scale.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2)))
        else:
            of_input = torch.zeros_like(x)
        if weight is None:
            return of_input, None, None, None, None, None
        return of_input, of_weight, of_bias, None, None, None


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *others: Tensor) -> Tensor:
        ctx.like = [(other.shape, other.dtype, other.device) for other in others]
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        zeros = (torch.zeros(s, dtype=t, device=d) for s, t, d in ctx.like)
        return (given[0], *zeros)


def tied(value: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    """The value, whose backward pass also visits what it does not depend on, with zeros.

    Ranks make the same sums backward only if all visit the same layers, also where a loss leaves
    some out (no object in a piece, a piece that does not count).
    """
    found = _Tied.apply(value, *others)
    assert isinstance(found, Tensor)
    return found
