"""Places in the queue: in which order runs start, and what people may ask to change of it."""

from orchestrator.client.records import Run
from orchestrator.errors import ConfigError
from orchestrator.types import Seconds

__all__ = ["demand_movable", "demand_priority", "place"]


def place(run: Run) -> tuple[bool, int, bool, int, Seconds]:
    """What unfinished runs are sorted by: those that hold a card first, then as they will start."""
    is_new = run.order is None  # the driver gives it a place behind all others
    return not run.state.holds_gpus, -run.priority, is_new, run.order or 0, run.submitted_at


def demand_priority(priority: int) -> None:
    """Raise ConfigError (E1033) where a priority is outside -1000 to 1000."""
    if not -1000 <= priority <= 1000:
        raise ConfigError(
            f"priority {priority} is outside -1000 to 1000",
            code="E1033",
            fix=("50 is what runs have by default; higher goes first",),
        )


def demand_movable(run: Run, other: Run | None) -> None:
    """Raise ConfigError (E1034) where a run cannot go to a place, or before another run."""
    for each in (run, other):
        if each is not None and each.state.is_terminal:
            raise _unmovable(f"{each.id} has ended: {each.state.value}", "orc queue shows all")
    if other is None:
        return
    if other.id == run.id:
        raise _unmovable(f"{run.id} cannot go before itself", "name another run")
    if other.priority != run.priority:
        raise _unmovable(
            f"{run.id} has priority {run.priority}, {other.id} has {other.priority}",
            f"orc queue set {run.id} priority={other.priority}, then move it",
        )


def _unmovable(what: str, fix: str) -> ConfigError:
    return ConfigError(what, code="E1034", fix=(fix,))
