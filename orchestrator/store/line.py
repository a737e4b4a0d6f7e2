"""A run's checkpoints by their names: the line of epochs, what it needs, and parts of epochs."""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

__all__ = [
    "FOLDER", "CheckpointFile", "UnfinishedFile", "checkpoints_of", "cut_off", "needed",
    "parsed_name", "parsed_unfinished", "unfinished_of",
]  # fmt: skip

FOLDER = "checkpoints"
_NAME = re.compile(r"epoch-([0-9]{4,9})(\.best)?\.ckpt")
_UNFINISHED = re.compile(r"unfinished-([0-9]{4,9})-([0-9]{6,12})-([0-9a-f]{64})\.ckpt")
_KEPT = 2


@dataclass(frozen=True, slots=True, order=True)
class CheckpointFile:
    """A checkpoint as its name tells it: ``checkpoints/<attempt>/epoch-0003.best.ckpt``."""

    attempt: int
    epoch: int
    is_best: bool

    @property
    def name(self) -> str:
        """Its name in the folder of its attempt."""
        return f"epoch-{self.epoch:04d}{'.best' if self.is_best else ''}.ckpt"

    @property
    def path(self) -> str:
        """Where it lies below the run's folder."""
        return f"{FOLDER}/{self.attempt}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class UnfinishedFile:
    """What was kept of an epoch under way, as its name tells it; the later steps sort last.

    No journal names it: its own name tells its hash.
    """

    epoch: int  # completed ones
    step: int  # of the next one
    attempt: int
    sha256: str

    @property
    def name(self) -> str:
        """Its name in the folder of its attempt."""
        return f"unfinished-{self.epoch:04d}-{self.step:06d}-{self.sha256}.ckpt"

    @property
    def path(self) -> str:
        """Where it lies below the run's folder."""
        return f"{FOLDER}/{self.attempt}/{self.name}"


def parsed_name(attempt: int, name: str) -> CheckpointFile | None:
    """What the name of a file in an attempt's folder tells; None where it is no checkpoint."""
    match = _NAME.fullmatch(name)
    return None if match is None else CheckpointFile(attempt, int(match[1]), match[2] is not None)


def parsed_unfinished(attempt: int, name: str) -> UnfinishedFile | None:
    """The same for what was kept of an unfinished epoch."""
    match = _UNFINISHED.fullmatch(name)
    return match and UnfinishedFile(int(match[1]), int(match[2]), attempt, match[3])


def checkpoints_of(paths: Iterable[str]) -> list[CheckpointFile]:
    """Those of a run among paths below its folder, as ``checkpoints/<attempt>/<name>``."""
    return list(filter(None, (parsed_name(*told) for told in _attempts_of(paths))))


def unfinished_of(paths: Iterable[str]) -> list[UnfinishedFile]:
    """What is kept of epochs under way among such paths."""
    return list(filter(None, (parsed_unfinished(*told) for told in _attempts_of(paths))))


def cut_off(paths: Iterable[str], newest: int) -> list[str]:
    """What attempts up to `newest` began to put up when they ended."""
    return [
        f"{FOLDER}/{number}/{name}"
        for number, name in _attempts_of(paths)
        if number <= newest and ".ckpt.part-" in name
    ]


def _attempts_of(paths: Iterable[str]) -> Iterator[tuple[int, str]]:
    for path in paths:
        _, number, name = path.split("/")
        if number.isdecimal():
            yield int(number), name


def needed(found: Collection[CheckpointFile], newest: CheckpointFile) -> set[CheckpointFile]:
    """The last two of the line of epochs that ends in `newest`, and the best before it.

    `newest` is not recorded yet, and may never be: what was the best without it has to stay.
    An older attempt may have written epochs beyond the one from which the next went on: nobody
    recorded them, and they are not part of the line. Of the attempts before, every best is kept
    until there is a newer one, because such leftovers cannot be told apart by then.
    """
    line: list[CheckpointFile] = []
    limit = math.inf
    for number in sorted({file.attempt for file in found}, reverse=True):
        own = sorted((f for f in found if f.attempt == number and f.epoch < limit), reverse=True)
        line += own
        limit = min([limit, *(file.epoch for file in own)])
    kept = {newest, *line[:_KEPT]}
    best = [file for file in line if file.is_best and file != newest]
    if best:
        latest = best[0]
        is_own = latest.attempt == newest.attempt
        kept |= {f for f in best if f == latest or (not is_own and f.attempt == latest.attempt)}
    return kept
