"""How one optimizer step is cut into micro-batches, exactly, and how that changes."""

from dataclasses import dataclass

__all__ = ["BatchPlan", "GivenUp", "Recut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How one optimizer step of `effective_batch` samples is cut.

    A rank takes its `share` of the samples of a step and runs them in pieces of at most
    `micro_batch` samples; the last piece may be smaller. Where the batch does not divide among
    the ranks, the first ones take one sample more. The sum over pieces and ranks is the effective
    batch, exactly.
    """

    effective_batch: int
    world_size: int
    micro_batch: int

    def __post_init__(self) -> None:
        for name in ("effective_batch", "world_size", "micro_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.effective_batch < self.world_size:
            raise ValueError(
                f"effective_batch {self.effective_batch} leaves some of {self.world_size} ranks"
                " without a sample"
            )
        if self.micro_batch > self.rank_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} is larger than the {self.rank_batch} samples"
                " of a rank"
            )

    @property
    def rank_batch(self) -> int:
        """Samples that the rank with the most contributes to one optimizer step."""
        return -(-self.effective_batch // self.world_size)

    def share(self, rank: int) -> int:
        """Samples that a rank contributes to one optimizer step."""
        least, rest = divmod(self.effective_batch, self.world_size)
        return least + (rank < rest)

    def begin(self, rank: int) -> int:
        """Where the samples of a rank begin among those of a step, which ranks take in order."""
        least, rest = divmod(self.effective_batch, self.world_size)
        return rank * least + min(rank, rest)

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per optimizer step and rank; 1 means that the step is not cut."""
        return -(-self.rank_batch // self.micro_batch)

    @property
    def pieces(self) -> tuple[int, ...]:
        """Sizes of the micro-batches of one step on the rank with the most samples."""
        return self.pieces_of(0)

    def pieces_of(self, rank: int) -> tuple[int, ...]:
        """Sizes of the micro-batches of one step on a rank; they add up to its share."""
        full, rest = divmod(self.share(rank), self.micro_batch)
        return (self.micro_batch,) * full + ((rest,) if rest else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A rung of the ladder that was taken while a run trained, by its name in the config.

    It holds for the rest of the run, whatever card the next attempt has.
    """

    rung: str  # amp | checkpointing | optimizer_8bit | optimizer_host | imgsz
    setting: str  # what holds now: fp16, bf16, on, 8bit, host, 288
    is_live: bool = True  # False: from the next attempt on, as the running one cannot change it

    def __str__(self) -> str:
        return f"{self.rung}={self.setting}"

    @classmethod
    def parse(cls, text: str) -> "GivenUp":
        """Read what `str` wrote."""
        rung, _, setting = text.partition("=")
        return cls(rung=rung, setting=setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recut:
    """A step or a validation batch is cut otherwise from now on. `why` tells it with numbers.

    With `given_up` nothing was left to cut: a rung of the ladder was taken.
    """

    epoch: int  # the epoch under way, counted from 1
    old: int
    new: int
    why: str
    in_validation: bool = False
    given_up: GivenUp | None = None
