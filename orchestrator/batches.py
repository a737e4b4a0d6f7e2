"""How one optimizer step is cut into micro-batches, exactly."""

from dataclasses import dataclass

__all__ = ["BatchPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How one optimizer step of `effective_batch` samples is cut.

    Every rank takes `rank_batch` samples a step and runs them in `pieces`, each of at most
    `micro_batch` samples; the last piece may be smaller. The sum over pieces and ranks is the
    effective batch, exactly.
    """

    effective_batch: int
    world_size: int
    micro_batch: int

    def __post_init__(self) -> None:
        for name in ("effective_batch", "world_size", "micro_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.effective_batch % self.world_size:
            raise ValueError(
                f"effective_batch {self.effective_batch} is not divisible by"
                f" world_size {self.world_size}"
            )
        if self.micro_batch > self.rank_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} is larger than the {self.rank_batch} samples"
                " of a rank"
            )

    @property
    def rank_batch(self) -> int:
        """Samples that one rank contributes to one optimizer step."""
        return self.effective_batch // self.world_size

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per optimizer step and rank; 1 means that the step is not cut."""
        return -(-self.rank_batch // self.micro_batch)

    @property
    def pieces(self) -> tuple[int, ...]:
        """Sizes of the micro-batches of one step on one rank; they add up to `rank_batch`."""
        full, rest = divmod(self.rank_batch, self.micro_batch)
        return (self.micro_batch,) * full + ((rest,) if rest else ())
