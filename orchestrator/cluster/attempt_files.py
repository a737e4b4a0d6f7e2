"""Where an attempt has its files: its folder, and what each of its processes prints."""

from pathlib import Path

from orchestrator.address import joined
from orchestrator.messages import StartGang

__all__ = ["attempt_folder", "attempt_log", "told_log"]


def attempt_log(order: StartGang, rank: int = 0) -> Path:
    """The file that takes all that a process of the attempt prints."""
    name = f"attempt-{order.attempt.number}" + (f".rank-{rank}" if rank else "")
    return Path(order.spec.folder) / "logs" / f"{name}.log"


def told_log(order: StartGang, rank: int = 0) -> str:
    """Where people find that file: its path, or its address once the attempt is over."""
    log = attempt_log(order, rank)
    return joined(order.spec.address, "logs", log.name) if order.spec.storage else str(log)


def attempt_folder(order: StartGang) -> Path:
    """The attempt's own folder."""
    return Path(order.spec.folder) / "attempts" / str(order.attempt.number)
