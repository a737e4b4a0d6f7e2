"""Events (past tense) tell the scheduler what happened; actions (imperative) are its answer."""

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from orchestrator.batches import GivenUp, Recut
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    Cause,
    CheckpointRef,
    Finding,
    Metrics,
    Node,
    NodeId,
    NodeType,
    Pace,
    Placement,
    Progress,
    QueueRule,
    RunId,
    RunSpec,
    Seconds,
    StepProgress,
    StopMode,
)

__all__ = [
    "Action", "AskNodes", "AttemptEvent", "CancelRequested", "DrainEnded", "DrainRequested",
    "Event", "GangFailed", "GangFinished", "GangStarted", "GangYielded", "GivenUp", "KillGang",
    "MicroBatchChanged", "NodeChanged", "NodeJoined", "NodeLost", "NodeTypesOffered",
    "PaceMeasured", "PlaceMended", "PolicyChanged", "PreemptGang", "PriorityChanged",
    "ProgressReported", "QueueChanged", "Recut", "ResumeRequested", "RunMoved", "RunSubmitted",
    "StartGang", "StepReported", "TimePassed",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `at` is Unix time in seconds, or virtual time in a simulation."""

    at: Seconds
    is_volatile: ClassVar[bool] = False  # volatile events are shown to people and never stored


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvent(Event):
    """Something that one attempt did. Ignored when a newer attempt of the run exists."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSubmitted(Event):
    """A person asked for a run."""

    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Event):
    """A person asked to stop a run: after its epoch, or at once (`now`)."""

    run_id: RunId
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested(Event):
    """A person asked to go on with a cancelled or failed run, from its last checkpoint."""

    run_id: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityChanged(Event):
    """A person changed a run's priority."""

    run_id: RunId
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMoved(Event):
    """A person moved a run among those of its priority: before another, else to the front or end.

    It changes nothing when the other run has ended, or has another priority by now.
    """

    run_id: RunId
    before: RunId | None = None
    to_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequested(Event):
    """A person asked the driver to leave: gangs save after their epoch, or stop at once (`now`).

    Nothing starts any more until `DrainEnded`; the runs go on with the next driver.
    """

    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainEnded(Event):
    """Another driver has come: gangs may start again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChanged(Event):
    """A person gave a queue another weight or quota."""

    rule: QueueRule


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged(Event):
    """A person chose how runs are sized and ordered: by the queue alone, or a policy's name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceMended(Event):
    """A person mended a card, or with `card` None a node, that was put aside after failures."""

    node_id: NodeId
    card: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined(Event):
    """A node can take gangs."""

    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged(Event):
    """A known node's facts changed, such as the bytes that foreign processes hold."""

    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Event):
    """A node vanished, with everything that ran on it.

    `with_others`: more nodes went at the same moment, and their events follow; nothing is started
    before the last of them.
    """

    node_id: NodeId
    with_others: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTypesOffered(Event):
    """An autoscaler can bring nodes of these types, and of no others, when it is asked.

    `spare_seconds`: nothing is asked for a run that will have room within this time anyhow.
    `late_after_seconds`: a node that has not come after this is told as late.
    """

    node_types: tuple[NodeType, ...]
    spare_seconds: Seconds = 120.0
    late_after_seconds: Seconds = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GangStarted(AttemptEvent):
    """Every worker of the gang is up. `pids` are their process ids, in rank order."""

    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported(AttemptEvent):
    """An epoch was completed; its checkpoint, if one was written, is recorded with it."""

    progress: Progress
    checkpoint: CheckpointRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchChanged(AttemptEvent):
    """The attempt runs on with another cut; the effective batch is the same."""

    recut: Recut


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReported(AttemptEvent):
    """A sign of life between epochs."""

    step: StepProgress
    is_volatile: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceMeasured(AttemptEvent):
    """The first steps of an attempt have told how long an epoch takes with its cards.

    Told once, and only where an epoch takes longer than to measure it: speeds are then known
    after a minute, not after an epoch.
    """

    pace: Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class GangYielded(AttemptEvent):
    """The gang left because it was asked to; what it recorded is safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangFinished(AttemptEvent):
    """The run is complete. `metrics` are those of the best checkpoint."""

    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GangFailed(AttemptEvent):
    """The attempt ended badly. `code` names the error for people, `detail` says it in words."""

    cause: Cause
    detail: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed(Event):
    """A moment came that the scheduler had asked to be woken for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGang:
    """Start all workers of an attempt, or none.

    `checkpoints` are the run's recorded ones, newest first: the worker resumes from the first
    that it can verify. `weights` is the best one of `spec.weights_from`, for a fresh start.
    """

    attempt: AttemptId
    spec: RunSpec
    batch: BatchPlan
    placement: Placement
    checkpoints: tuple[CheckpointRef, ...] = ()
    weights: CheckpointRef | None = None
    findings: tuple[Finding, ...] = ()  # settings that other runs of the model have tried


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptGang:
    """Ask a gang to save and leave."""

    attempt: AttemptId
    mode: StopMode


@dataclass(frozen=True, slots=True, kw_only=True)
class KillGang:
    """End a gang's processes now. The answer is GangFailed(KILLED)."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class AskNodes:
    """Have so many nodes of each type, those that are there included; none of types not named."""

    counts: tuple[tuple[str, int], ...]  # name of the type, number of nodes


Action: TypeAlias = StartGang | PreemptGang | KillGang | AskNodes
