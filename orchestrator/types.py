"""The nouns: ids, specs, plans, placements, states; frozen values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType, TypeAlias

from orchestrator.address import joined
from orchestrator.batches import BatchPlan
from orchestrator.hardware import (
    Bytes,
    Card,
    DeviceMemory,
    Node,
    NodeId,
    NodeType,
    Placement,
    Share,
)
from orchestrator.series import Part
from orchestrator.states import (
    Cause,
    DeviceKind,
    Outcome,
    PendingReason,
    RunState,
    StopMode,
    StopReason,
)

__all__ = [
    "AttemptId", "BatchPlan", "Bytes", "Card", "Cause", "CheckpointRef", "DeviceKind",
    "DeviceMemory", "Explanation", "Finding", "Metrics", "Node", "NodeId", "NodeType", "Outcome",
    "Pace", "Part", "PendingReason", "Placement", "Progress", "QueueRule", "RetryBudget", "RunId",
    "RunSpec", "RunState", "RunStatus", "Scalar", "Seconds", "Share", "StepProgress", "StopMode",
    "StopReason", "TrainSettings", "TrainTask",
]  # fmt: skip

RunId = NewType("RunId", str)
Seconds: TypeAlias = float
Scalar: TypeAlias = str | int | float | bool | None
Metrics: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AttemptId:
    """One try at a run, numbered from 1: the fencing token of everything the attempt writes."""

    run_id: RunId
    number: int

    def __str__(self) -> str:
        return f"{self.run_id}#{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """What a queue may have. `weight` is its part of the cluster beside other queues.

    `max_gpus` is its quota: the cards that its runs may hold at a time, a share of a card
    counting as that part of it; None is no limit.
    """

    name: str
    weight: float = 1.0
    max_gpus: float | None = None

    def __post_init__(self) -> None:
        if not (0.0 < self.weight < float("inf")):
            raise ValueError(f"the weight of queue {self.name!r} must be above 0")
        if self.max_gpus is not None and not self.max_gpus > 0.0:
            raise ValueError(f"the quota of queue {self.name!r} must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How often a run may fail, by class of cause; one failure more and it is given up.

    Which cause counts where, and what an epoch pays back, is in `schedule.retry`.
    """

    user_errors: int = 1
    nan_losses: int = 2
    out_of_memory: int = 16
    hangs: int = 3
    device_faults: int = 10
    disk_full: int = 12
    storage_faults: int = 12
    node_losses: int = 50
    kills: int = 10
    losses_without_progress: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What is trained, in ultralytics' own words (`model data imgsz lr0 ...`) for both trainers.

    `lr0` None means the optimizer's default of the trainer. `options` holds every further key
    of the config block, already checked against the trainer's known keys.
    """

    model: str
    data: str
    imgsz: int
    epochs: int
    amp: str = "auto"  # fp16 | bf16 | fp32 | auto
    optimizer: str = "AdamW"
    lr0: float | None = None
    patience: int = 100
    workers: int = 8
    cache: str = "false"  # false | ram | disk
    seed: int = 0
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One training to be completed, as it is queued. `folder` is the absolute run folder.

    The run of `weights_from` is one of those that have to succeed first, named in `after` or not.
    """

    run_id: RunId
    project: str
    trainer: str  # yolo | timm | fake
    settings: TrainSettings
    effective_batch: int
    folder: str
    device: DeviceKind = DeviceKind.GPU
    num_gpus: int = 1  # workers of the gang; 1 as well for a run on the CPU
    min_gpus: int | None = None  # elastic: it may be given fewer workers, down to this many
    is_on_one_node: bool = False  # a gang that no node can hold whole is infeasible then
    memory_bytes: Bytes | None = None  # per GPU; None asks for a whole card
    micro_batch: int | None = None  # upper limit set by a person; None lets the plan choose
    gpu_types: tuple[str, ...] = ()  # card names that are allowed; empty allows all
    labels: Mapping[str, str] = field(default_factory=dict)  # of its nodes: conditions by label
    num_cpus: float = 0.0  # per worker; 0 is not counted (GPU runs), CPU runs ask for >= 1
    host_bytes: Bytes = 0  # RAM per worker, its loading processes included; 0 is not counted
    queue: str = "default"
    priority: int = 50  # higher goes first
    retry: RetryBudget = field(default_factory=RetryBudget)
    max_duration_seconds: Seconds | None = None
    hang_seconds: Seconds | None = None  # silence that counts as a hang; None follows its pace
    given_up: tuple[str, ...] = ()  # rungs that earlier attempts took: "amp=bf16"
    asked: str = ""  # fingerprint of what was asked for, where a plan has changed the rest
    after: tuple[RunId, ...] = ()  # runs that have to succeed before this one starts
    weights_from: RunId | None = None  # the run whose best weights this one starts from
    part: Part | None = None  # which run of its project it is, where the project has several
    start_from: "CheckpointRef | None" = None  # of another run: this one goes on from there
    until: int | None = None  # it ends after so many epochs of `settings.epochs`
    warm: str = ""  # runs of one word may have one process after the other, if it is left clean
    storage: str = ""  # address of a store that keeps what nodes write; empty writes to `folder`

    @property
    def keeps_epochs(self) -> bool:
        """Whether its trainer keeps what is done of an epoch when it is asked to leave."""
        return self.trainer in ("timm", "yolo")

    @property
    def address(self) -> str:
        """Address of the run's folder in its store; empty without one."""
        return joined(self.storage, self.project, self.run_id) if self.storage else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A verified checkpoint: the file exists, loads, and has this SHA-256."""

    attempt: AttemptId
    epoch: int  # epochs completed when it was written
    path: str
    sha256: str
    num_bytes: Bytes
    is_best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a setting should be, because it was tried, and what that holds for.

    `kind` is all that the answer depends on besides card and model: sizes, precision, CPUs, data,
    versions. `is_measured` is False where the trial failed: the default holds, and `told` says why.
    """

    trainer: str
    card: str  # as the device names it
    model: str
    kind: str
    name: str
    value: Scalar
    told: str
    is_measured: bool = True

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.name}={value} ({self.told})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One completed epoch, counted from 1; peaks are those since the micro-batch last changed."""

    epoch: int
    epochs: int
    metrics: Metrics
    seconds: Seconds
    num_images: int
    peak_bytes: Bytes = 0  # of live tensors
    micro_batch: int = 0
    peak_reserved_bytes: Bytes = 0  # taken from the card, the allocator's cache included
    num_recuts: int = 0  # changes of the micro-batch during the epoch
    leak_bytes: Bytes = 0  # by which the memory grows each epoch; 0 without a leak
    rungs: tuple[str, ...] = ()  # given up while the run trained: "amp=bf16"
    choices: tuple[str, ...] = ()  # settings that were measured, and what that said
    findings: tuple[Finding, ...] = ()  # those of them that nobody knew; told with one epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """A sign of life inside an epoch: steps done of steps in the epoch. Shown, never stored."""

    epoch: int  # the epoch under way, counted from 1
    epochs: int
    step: int
    num_steps: int
    images_per_second: float
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What an epoch takes by the steps of it that an attempt has done."""

    epoch: int  # the epoch under way, counted from 1
    seconds: Seconds
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What a trainer is told to do in one attempt. `folder` is the attempt's own folder.

    `weights` is a verified checkpoint of another run: a fresh start begins with what it was judged
    by (averaged weights where there are any); what `RunLink.resume_from` names goes before it.
    """

    attempt: AttemptId
    spec: RunSpec
    batch: BatchPlan
    folder: str
    rank: int = 0
    weights: CheckpointRef | None = None
    findings: tuple[Finding, ...] = ()  # what other runs of the model have found


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a run is where it is. `reason` is None unless the run waits."""

    run_id: RunId
    state: RunState
    reason: PendingReason | None
    summary: str
    asks: str
    available: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The row that people read: a projection of the journal, rebuilt from it at any time.

    `detail` is the last thing worth telling: why it waits, or what ended it. `epoch` is how many
    were completed when the row was published; a completed epoch alone does not publish it again.
    """

    run_id: RunId
    project: str
    trainer: str
    state: RunState
    attempt: int
    priority: int
    queue: str
    epoch: int
    epochs: int
    submitted_at: Seconds
    started_at: Seconds | None = None
    ended_at: Seconds | None = None
    reason: PendingReason | None = None
    cause: Cause | None = None
    detail: str = ""
    batch: BatchPlan | None = None
    placement: Placement | None = None
    gpu: str = ""  # "node:index name" of every share, or "cpu"
    folder: str = ""
    part: Part | None = None
    order: int = 0  # place among unfinished runs of its priority; the smaller goes first
    address: str = ""  # of its folder, where nodes keep in a store what they write
