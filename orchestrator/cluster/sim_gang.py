"""One attempt inside a simulation: what it says, what it needs, and what strikes it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from orchestrator.cluster.script import Faults
from orchestrator.messages import AttemptEvent, GangFinished, ProgressReported, StartGang
from orchestrator.types import AttemptId, Cause, CheckpointRef, NodeId, Progress, Scalar, Seconds

__all__ = [
    "DETECT_SECONDS",
    "HANG_SECONDS",
    "MISHAPS",
    "Gang",
    "Luck",
    "finished",
    "first_step",
    "option",
    "peak_bytes",
    "planted",
    "report",
]

DETECT_SECONDS = (0.5, 8.0)  # after a node or worker died, until its gang is told as failed
HANG_SECONDS = (600.0, 660.0)  # until a gang that hangs is found and killed
MISHAPS = (  # rate in `Faults`, cause, when it is told
    ("worker_loss", Cause.WORKER_LOST, DETECT_SECONDS),
    ("flaky", Cause.USER_ERROR, DETECT_SECONDS),
    ("hang", Cause.HANG, HANG_SECONDS),
)


@dataclass(slots=True, eq=False)
class Gang:
    """One attempt in the world, as opposed to what the scheduler believes of it."""

    start: StartGang
    epoch: int
    since: Seconds
    is_up: bool = False
    is_over: bool = False
    is_deaf: bool = False  # it hangs
    leaves_after_epoch: bool = False
    num_kills: int = 0
    plan: int = 0  # entries of the heap with an older plan are void
    epoch_seconds: Seconds = 0.0  # of the epoch under way
    epoch_began: Seconds = 0.0
    done: float = 0.0  # part of the epoch under way that an earlier attempt has done
    peak_bytes: float = 0.0  # the true footprint
    fault: tuple[int, Cause, str] | None = None  # planted: from which epoch on, and what
    events: list[AttemptEvent] = field(default_factory=list)
    checkpoints: str = field(init=False)  # how the paths of its checkpoints begin
    sha256: str = field(init=False)  # and their hashes, which end with the epoch

    def __post_init__(self) -> None:
        attempt = self.start.attempt
        self.checkpoints = f"{self.start.spec.folder}/checkpoints/{attempt.number}"
        self.sha256 = hashlib.sha256(self.checkpoints.encode()).hexdigest()[:56]


class Luck:
    """Chance that is keyed by attempt and thing: a decision elsewhere does not reshuffle it.

    A draw is a hash of its key: seeding a generator for one number would cost ten times as much.
    """

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._seed = seed
        self._bad: dict[tuple[NodeId, int], bool] = {}  # cards that were asked for

    def of(self, who: AttemptId | str, what: str) -> float:
        """The fraction in [0, 1) that is drawn for one thing that happens to one attempt."""
        key = f"{self._seed}/{who}/{what}".encode()
        drawn = hashlib.blake2b(key, digest_size=8).digest()
        return (int.from_bytes(drawn, "big") >> 11) / 2**53  # all bits that a float holds

    def between(self, who: AttemptId | str, what: str, limits: tuple[Seconds, Seconds]) -> Seconds:
        """The moment that is drawn for it, evenly between two limits."""
        return limits[0] + (limits[1] - limits[0]) * self.of(who, what)

    def is_bad(self, node_id: NodeId, card: int) -> bool:
        """True when the first step fails on a card, as it does for every attempt."""
        if not self.faults.bad_card:
            return False
        found = self._bad.get((node_id, card))
        if found is None:
            found = self.of("card", f"{node_id}:{card}") < self.faults.bad_card
            self._bad[node_id, card] = found
        return found

    def strikes(self, gang: Gang, fault: str) -> bool:
        """True when a fault of this name meets this attempt."""
        rate: float = getattr(self.faults, fault)
        return rate > 0 and self.of(gang.start.attempt, fault) < rate


def first_step(gang: Gang, luck: Luck) -> tuple[Cause, str, tuple[Seconds, Seconds]] | None:
    """What is wrong with the first step, and after how many seconds it is told."""
    if _is_out_of_memory(gang):
        detail = f"micro-batch {gang.start.batch.micro_batch} does not fit"
        return Cause.OUT_OF_MEMORY, detail, DETECT_SECONDS
    for share in gang.start.placement.shares:
        if share.card is not None and luck.is_bad(share.node_id, share.card):
            detail = f"card {share.node_id}:{share.card} is bad"
            return Cause.DEVICE_FAULT, detail, (0.0, gang.epoch_seconds)
    return None


def _is_out_of_memory(gang: Gang) -> bool:
    """True when the true footprint of the micro-batch is above the share."""
    start = gang.start
    limit = option(start, "oom_above_micro_batch", 0)
    if limit and start.batch.micro_batch > limit and _is_planted(start, "oom_above_micro_batch"):
        return True
    cards = [share for share in start.placement.shares if share.card is not None]
    return any(gang.peak_bytes > share.memory_bytes for share in cards)


def peak_bytes(start: StartGang) -> float:
    """The true footprint: fixed + per sample x micro-batch."""
    per_sample = option(start, "bytes_per_sample", 0)
    return option(start, "fixed_bytes", 0) + per_sample * start.batch.micro_batch


def report(gang: Gang, at: Seconds, num_images: int) -> ProgressReported:
    """What the gang says after an epoch; its checkpoint is a name without a file."""
    attempt, epoch = gang.start.attempt, gang.epoch
    return ProgressReported(
        at=at,
        attempt=attempt,
        progress=Progress(
            epoch=epoch,
            epochs=gang.start.spec.settings.epochs,
            metrics=_metrics(epoch),
            seconds=gang.epoch_seconds,
            num_images=num_images,
            peak_bytes=int(gang.peak_bytes),
            micro_batch=gang.start.batch.micro_batch,
        ),
        checkpoint=CheckpointRef(
            attempt=attempt,
            epoch=epoch,
            path=f"{gang.checkpoints}-{epoch}.pt",
            sha256=f"{gang.sha256}{epoch:08x}",
            num_bytes=1,
            is_best=True,
        ),
    )


def finished(gang: Gang, at: Seconds) -> GangFinished:
    """What the gang says at the end."""
    return GangFinished(at=at, attempt=gang.start.attempt, metrics=_metrics(gang.epoch))


@cache
def _metrics(epoch: int) -> Mapping[str, float]:
    """The same for every gang; nobody changes what a message holds."""
    return {"loss": 2.0 / (1.0 + epoch)}


def planted(start: StartGang) -> tuple[int, Cause, str] | None:
    """The earliest fault that the run's options plant in this attempt."""
    found: list[tuple[int, Cause, str]] = []
    for name, cause in (
        ("crash_at_epoch", Cause.WORKER_LOST),
        ("nan_at_epoch", Cause.NAN_LOSS),
        ("fail_at_epoch", Cause.USER_ERROR),
        ("hang_at_epoch", Cause.HANG),
    ):
        epoch = int(option(start, name, 0))
        if epoch and _is_planted(start, name):
            found.append((epoch, cause, f"planted {name}"))
    return min(found, key=lambda fault: fault[0], default=None)


def _is_planted(start: StartGang, fault: str) -> bool:
    is_brief = fault in ("crash_at_epoch", "hang_at_epoch")
    default = 1 if is_brief else start.attempt.number
    return start.attempt.number <= (option(start, "fault_attempts", 0) or default)


def option(start: StartGang, name: str, default: float) -> float:
    """A number out of the run's options, which are those of the fake trainer."""
    value: Scalar = start.spec.settings.options.get(name, default)
    return value if isinstance(value, int | float) else default
