"""The seams: Clock, Cluster, Store, Checkpoints, Device, Trainer, RunLink, ... as Protocols."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from orchestrator.messages import Action, Event, Recut
from orchestrator.types import (
    AttemptId,
    Bytes,
    Card,
    CheckpointRef,
    DeviceMemory,
    Finding,
    Metrics,
    Outcome,
    Progress,
    RunSpec,
    RunStatus,
    Seconds,
    StepProgress,
    StopMode,
    TrainTask,
)

__all__ = [
    "Checkpoints", "Clock", "Cluster", "Device", "Parts", "RunLink", "Store", "StoredRun", "Trainer"
]  # fmt: skip


class Clock(Protocol):
    """Stamps events at the edge; the core never sees it."""

    def now(self) -> Seconds:
        """Seconds since the Unix epoch, or virtual seconds in a simulation."""


class Cluster(Protocol):
    """Starts, preempts and kills gangs; reports what happened to them.

    An event about an attempt carries its AttemptId, and the events of one attempt arrive in
    order. Every started attempt ends with exactly one of GangYielded, GangFinished, GangFailed.
    An action for an attempt that has already ended is ignored.
    """

    def apply(self, action: Action) -> None:
        """Begin to carry out an action; never blocks on the gang. A remote fault is an event."""

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """Return what happened, at the latest at `until`; the only blocking call of the product.

        May return nothing before `until` (an implementation with a heartbeat of its own).
        """


class Store(Protocol):
    """What is remembered. Every method returns after its effect is durable."""

    def append(self, event: Event) -> bool:
        """Record an event; False, and nothing recorded, when it is fenced off.

        Fenced off means: it comes from an attempt other than the run's published one, from a
        run that is terminal, or repeats an epoch already recorded by the same attempt. An epoch
        that a newer attempt repeats replaces the run's row of that epoch (the journal keeps
        both). Volatile events are not recorded; the answer is then True.
        """

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        """Update the rows that people read, and with them the fence.

        From now on only `status.attempt` of each run may write, and nothing once it is terminal.
        """

    def receive(self, at: Seconds) -> Sequence[Event]:
        """Move what people asked for (submit, stop, resume, place, drain) from inbox to journal.

        One transaction; the events are stamped `at` and returned in the order of asking. Of very
        many only the oldest: nothing is left when nothing is returned.
        """

    def replay(self) -> Iterator[Event]:
        """Every recorded event in the order it was recorded."""

    def findings(self, model: str | None = None) -> Sequence[Finding]:
        """What recorded epochs told of settings that were tried, of a model or of all.

        The newest of each setting and kind; a trial that failed never replaces one that did not.
        """


class Checkpoints(Protocol):
    """The checkpoints of one run on disk. A checkpoint exists when it is verified."""

    def write(
        self,
        attempt: AttemptId,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """Write to a temporary name, fsync, load back with `check`, hash, rename, fsync the folder.

        Keeps the last two verified ones and the best, and the newest with a `step`. Raises
        StoreError (disk full, `check` fails); earlier checkpoints stay untouched then.
        """

    def verify(self, ref: CheckpointRef) -> bool:
        """True when the file exists and has the recorded SHA-256."""

    def unfinished(self, attempt: AttemptId, epoch: int) -> CheckpointRef | None:
        """The most steps kept of the epoch after `epoch`, by any attempt of the run; verified."""


class StoredRun(Protocol):
    """What one rank of an attempt has on its node of a run that is kept at an address.

    Nobody else writes where it writes. `folder`, the run's on this node, goes with the attempt.
    """

    folder: str

    def checkpoints(self, address: str) -> Checkpoints:
        """Checkpoints of the run whose folder has this address; verified ones are here as well."""

    def here(self, ref: CheckpointRef) -> CheckpointRef:
        """The same checkpoint as a file of this node, once it was written or verified."""

    def put_texts(self) -> None:
        """Put logs and tables up as they are now; a store that fails is tried again later."""

    def close(self) -> None:
        """Put up all that is left, and remove it here; StoreError where it has to stay here."""


class Device(Protocol):
    """One card, or a share of it, as seen from the process that computes on it."""

    @property
    def torch_device(self) -> str:
        """What torch calls it: "cuda:0" or "cpu"."""

    @property
    def name(self) -> str:
        """For people; an emulated card says that it is emulated."""

    def memory(self) -> DeviceMemory:
        """The card's memory, foreign processes included."""

    def session(self) -> AbstractContextManager[None]:
        """While inside, this process is held to its budget.

        An allocation beyond it raises torch.OutOfMemoryError.
        """

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak."""

    def peak_bytes(self) -> Bytes:
        """The most bytes held at one time since `reset_peak`."""

    @property
    def budget_bytes(self) -> Bytes | None:
        """What this process may hold inside a session; None without a limit."""

    def live_bytes(self) -> Bytes:
        """Bytes of live tensors now; 0 where they are not counted."""

    def reserved_bytes(self) -> Bytes:
        """Bytes taken from the card now, caches of the allocator included."""

    def peak_reserved_bytes(self) -> Bytes:
        """The most bytes taken from the card at one time since `reset_peak`."""

    def snapshot(self) -> tuple[str, bytes]:
        """What holds the memory: a file's suffix and its content, at most 32 MiB.

        To be asked for while an out-of-memory error is handled, before anything is freed.
        """

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when the error, by class or by one of the known texts, means that memory ran out."""

    def release(self) -> None:
        """Give cached memory back after an error."""


class RunLink(Protocol):
    """What a trainer may say to its gang and ask of it, and nothing more."""

    @property
    def resume_from(self) -> CheckpointRef | None:
        """The newest verified checkpoint of the run, or None for a fresh start."""

    def stop_requested(self) -> StopMode | None:
        """Asked at every batch boundary; None means go on."""

    def step(self, step: StepProgress) -> None:
        """A sign of life; cheap, may be thinned out, never blocks."""

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """Write a verified checkpoint after `epoch` completed epochs, and `step` of the next."""

    def unfinished(self) -> CheckpointRef | None:
        """What was kept of the epoch after `resume_from` with a `step`; verified, not recorded."""

    def recut(self, recut: Recut) -> None:
        """The micro-batch changed, since memory ran out or there is more of it; never blocks."""

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """An epoch is complete. Returns when the report has left this process."""


class Trainer(Protocol):
    """Trains one run in one attempt."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        """Train from `link.resume_from` to the last epoch, early stopping, or a stop request.

        Returns the outcome and the metrics of the best epoch. Raises TrainingError with a Cause
        for what it can name; any other exception counts as the user's.
        """


class Parts(Protocol):
    """Implementations by name, chosen in `jobs` and handed to workers."""

    def trainer(self, name: str) -> Trainer:
        """The trainer `yolo`, `timm` or `fake`."""

    def device(self, card: Card | None, budget_bytes: Bytes) -> Device:
        """The device of a share; None is the CPU, without a limit."""

    def get_ready(self, trainer: str, card: Card | None) -> None:
        """Import what the trainer will need on a card of this kind, and nothing more."""

    def checkpoints(self, folder: str) -> Checkpoints:
        """The checkpoints of the run whose folder this is."""

    def stored(self, spec: RunSpec, attempt: AttemptId, rank: int) -> StoredRun:
        """The part here of a run whose `storage` is an address, for one rank of an attempt."""

    def environment(self, card: Card | None, num_cpus: float) -> Mapping[str, str]:
        """Environment variables to set before torch is imported in the worker."""

    def process_group(
        self, card: Card | None, *, listener: int | None, timeout: Seconds
    ) -> AbstractContextManager[None]:
        """Inside, this process and the other ranks of its gang can compute together.

        Who it is, and where they meet, stands in the environment, as torch names it (`RANK`,
        `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`).

        Args:
            card: The card of this rank; None computes on the CPU.
            listener: Descriptor of rank 0's socket, which is bound to the port; it is taken over.
            timeout: For the meeting, and for each thing that they compute together.
        """
