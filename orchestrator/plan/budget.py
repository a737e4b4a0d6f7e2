"""What an attempt may use of a card: its memory, less what others hold, less the headroom."""

from dataclasses import dataclass

from orchestrator.errors import PlanError
from orchestrator.plan.overheads import driver_bytes
from orchestrator.types import Bytes

__all__ = ["LEAST_BUDGET", "Headroom", "Target", "budget_of", "default_headroom", "share_of"]

_GIB = 1 << 30
LEAST_BUDGET: Bytes = 64 << 20
"""Below this not even the kernels of the smallest model fit."""

# Share of a card that is left free on purpose, by the card's size. Small cards drive the desktops,
# whose share of the memory comes and goes. The prediction errs by 1.6 % in the median and 4.9 % at
# worst on ten published runs (Ampere), which is the least that is kept, and all of it is needed for
# that: what the driver keeps for itself is subtracted besides. They stay within the safety factors
# of 0.75 to 0.95 that practice uses.
_HEADROOM = ((9 * _GIB, 0.10), (20 * _GIB, 0.08))
_HEADROOM_LARGE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What is left free on purpose: bytes, or a share of the card; neither takes the default."""

    num_bytes: Bytes | None = None
    fraction: float | None = None

    def of(self, total: Bytes) -> Bytes:
        """Bytes of a card of `total` bytes that nobody may plan with."""
        if self.num_bytes is not None:
            return self.num_bytes
        return (
            round(total * self.fraction) if self.fraction is not None else default_headroom(total)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A card to plan for. `limit_bytes` is a budget given by hand in place of the card's own.

    `memory_bytes` is what NVML calls total; `foreign_bytes` what processes of others hold of it.
    `is_size_alone` where no card was named, only how many bytes there are.
    """

    name: str
    memory_bytes: Bytes
    foreign_bytes: Bytes = 0
    architecture: str = "custom"  # as the catalogue has it; custom where nothing is known
    compute_capability: tuple[int, int] | None = None
    is_emulated: bool = False
    limit_bytes: Bytes | None = None
    is_size_alone: bool = False

    @property
    def driver_bytes(self) -> Bytes:
        """What the driver keeps of the card; 0 where it is emulated or only a size."""
        is_real = not (self.is_emulated or self.is_size_alone)
        return driver_bytes(self.memory_bytes) if is_real else 0

    @property
    def free_bytes(self) -> Bytes:
        """What CUDA offers to our processes, all of them together."""
        return self.memory_bytes - self.driver_bytes - self.foreign_bytes


def default_headroom(total: Bytes) -> Bytes:
    """The headroom of a card of `total` bytes: 10 % to 9 GiB, 8 % to 20 GiB, 5 % above.

    Never less than on a smaller card, so that a larger card never has the smaller budget.
    """
    kept = 0
    for limit, share in _HEADROOM:
        if total <= limit:
            return max(kept, round(total * share))
        kept = max(kept, round(limit * share))
    return max(kept, round(total * _HEADROOM_LARGE))


def budget_of(target: Target, headroom: Headroom) -> Bytes:
    """Bytes that one process may take of a card, its CUDA context included.

    Raises:
        PlanError: E2020, nothing worth planning with is left; says of how much, and what takes it.
    """
    free = target.free_bytes
    kept = headroom.of(target.memory_bytes)
    budget = free - kept if target.limit_bytes is None else min(target.limit_bytes, free)
    if budget < LEAST_BUDGET:
        raise _nothing_left(target, kept)
    return budget


def share_of(need: Bytes, target: Target, headroom: Headroom) -> Bytes:
    """What to ask of the scheduler for a process that needs `need` bytes, at most the budget.

    The scheduler hands out a card to the last byte that others do not hold. Shares that are larger
    by the driver's part and the headroom leave both alone, however many runs share the card: where
    the shares add up to at most what is handed out, the needs add up to at most the budget.
    """
    handed_out = target.memory_bytes - target.foreign_bytes
    usable = target.free_bytes - headroom.of(target.memory_bytes)
    return -(-need * handed_out // usable) if usable > 0 else need


def _nothing_left(target: Target, kept: Bytes) -> PlanError:
    if target.limit_bytes is not None and target.limit_bytes < LEAST_BUDGET:
        why: tuple[str, ...] = (f"the limit by hand is {_gib(target.limit_bytes)}",)
        fix: tuple[str, ...] = ("give at least 64MiB, such as --memory 8GiB",)
    else:
        why = (
            f"{target.name} has {_gib(target.memory_bytes)}",
            f"{_gib(target.foreign_bytes)} are held by processes of others",
            f"{_gib(target.driver_bytes)} are the driver's own",
            f"{_gib(kept)} are kept free (resources.headroom)",
        )
        fix = ("end what holds the card, or choose another: --gpu NAME", "resources.headroom=5%")
    return PlanError(
        f"no memory of {target.name} is left to plan with", code="E2020", why=why, fix=fix
    )


def _gib(num_bytes: Bytes) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
