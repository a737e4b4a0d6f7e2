"""Which run of a series one is: its fold, its stage; a series is what a project trains together."""

from dataclasses import dataclass

__all__ = ["Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One run of a series. Folds and stages are counted from 1; 0 where the series has none."""

    series: str  # equal for all runs that were asked for together, and for no others
    config: str  # equal for all series of one config, however often it is trained
    fold: int = 0
    num_folds: int = 0
    stage: int = 0
    num_stages: int = 0
    stage_name: str = ""

    def __post_init__(self) -> None:
        for name in ("fold", "stage"):
            number, count = getattr(self, name), getattr(self, f"num_{name}s")
            if not (1 <= number <= count or number == count == 0):
                raise ValueError(f"{name} {number} of {count}")

    def __str__(self) -> str:
        """Such as `fold 2/5, stage 1/3 small`."""
        words = [f"fold {self.fold}/{self.num_folds}"] if self.num_folds else []
        if self.num_stages:
            words.append(f"stage {self.stage}/{self.num_stages} {self.stage_name}".rstrip())
        return ", ".join(words)
