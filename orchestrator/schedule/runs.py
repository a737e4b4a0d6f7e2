"""A run's record, the table of its legal transitions, and the laws that hold between records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import TransitionError
from orchestrator.messages import (
    CancelRequested,
    DrainRequested,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    GivenUp,
    MicroBatchChanged,
    NodeLost,
    PaceMeasured,
    PriorityChanged,
    ProgressReported,
    ResumeRequested,
    RunMoved,
    TimePassed,
)
from orchestrator.schedule.asks import Ask
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    Cause,
    CheckpointRef,
    NodeId,
    Placement,
    Progress,
    RunId,
    RunSpec,
    RunState,
    Seconds,
    Share,
    StopMode,
    StopReason,
)

__all__ = [
    "HOLDING",
    "TRANSITIONS",
    "Bereft",
    "Faults",
    "Outranked",
    "Parted",
    "Placed",
    "Resized",
    "RunRecord",
    "check",
]

STORY_LENGTH = 40  # events that a TransitionError tells; enough for several attempts


# As `state.holds_gpus`, for the one place that every event passes.
HOLDING = frozenset(state for state in RunState if state.holds_gpus)


class Placed:
    """Decision of the scheduler: a whole gang has room."""


class Resized:
    """Decision of a policy: a gang shall have another number of cards."""


class Parted:
    """Decision of the scheduler: two runs on one card are slower together than in turn."""


class Outranked:
    """Decision of the scheduler: a run of higher priority needs the room."""


class Bereft:
    """Decision of the scheduler: a run that had to succeed first has not."""


_PENDING, _STARTING, _RUNNING = RunState.PENDING, RunState.STARTING, RunState.RUNNING
_STOPPING, _SUCCEEDED = RunState.STOPPING, RunState.SUCCEEDED
_FAILED, _CANCELLED = RunState.FAILED, RunState.CANCELLED

# An attempt that is over says nothing new: what still comes from it changes nothing.
_AFTER_ITS_END = {state: (state,) for state in (_PENDING, _SUCCEEDED, _FAILED, _CANCELLED)}
_UNCHANGED = {state: (state,) for state in RunState}

TRANSITIONS: Mapping[type, Mapping[RunState, tuple[RunState, ...]]] = {
    Placed: {_PENDING: (_STARTING,)},
    Bereft: {_PENDING: (_FAILED,)},
    Outranked: {_STARTING: (_STOPPING,), _RUNNING: (_STOPPING,)},
    Parted: {_STARTING: (_STOPPING,), _RUNNING: (_STOPPING,)},
    Resized: {_STARTING: (_STOPPING,), _RUNNING: (_STOPPING,)},
    GangStarted: {
        **_AFTER_ITS_END,
        _STARTING: (_RUNNING,),
        _RUNNING: (_RUNNING,),  # the message came twice
        _STOPPING: (_STOPPING,),  # it came up while the order to leave was under way
    },
    ProgressReported: {**_AFTER_ITS_END, _RUNNING: (_RUNNING,), _STOPPING: (_STOPPING,)},
    PaceMeasured: {**_AFTER_ITS_END, _RUNNING: (_RUNNING,), _STOPPING: (_STOPPING,)},
    MicroBatchChanged: {**_AFTER_ITS_END, _RUNNING: (_RUNNING,), _STOPPING: (_STOPPING,)},
    GangYielded: {**_AFTER_ITS_END, _STOPPING: (_PENDING, _CANCELLED, _FAILED)},
    GangFinished: {
        **_AFTER_ITS_END,
        _STARTING: (_SUCCEEDED,),
        _RUNNING: (_SUCCEEDED,),
        _STOPPING: (_SUCCEEDED,),  # it was faster than the order to leave
    },
    GangFailed: {
        **_AFTER_ITS_END,
        _STARTING: (_PENDING, _FAILED),
        _RUNNING: (_PENDING, _FAILED),
        _STOPPING: (_PENDING, _CANCELLED, _FAILED),
    },
    NodeLost: {_STARTING: (_STOPPING,), _RUNNING: (_STOPPING,), _STOPPING: (_STOPPING,)},
    CancelRequested: {
        **_UNCHANGED,
        _PENDING: (_CANCELLED,),
        _STARTING: (_STOPPING,),
        _RUNNING: (_STOPPING,),
    },
    ResumeRequested: {
        **_UNCHANGED,
        _FAILED: (_PENDING, _FAILED),  # stays failed when its batch can never be cut
        _CANCELLED: (_PENDING,),
    },
    PriorityChanged: _UNCHANGED,
    RunMoved: _UNCHANGED,
    DrainRequested: {_STARTING: (_STOPPING,), _RUNNING: (_STOPPING,), _STOPPING: (_STOPPING,)},
    TimePassed: {
        _PENDING: (_PENDING,),  # the backoff is over
        _STARTING: (_STOPPING,),  # start timeout
        _RUNNING: (_STOPPING,),  # longest duration
        _STOPPING: (_STOPPING, _PENDING, _CANCELLED, _FAILED),  # kill again; or nothing is left
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a run has spent of its retry budget; named as the fields of `RetryBudget`."""

    user_errors: int = 0
    nan_losses: int = 0
    out_of_memory: int = 0
    hangs: int = 0
    device_faults: int = 0
    disk_full: int = 0
    storage_faults: int = 0
    node_losses: int = 0
    kills: int = 0
    losses_without_progress: int = 0


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """All that the scheduler knows about a run; changed by `Scheduler.handle` only.

    `deadline` is the one moment that the run waits for, and its state says which: the end of a
    backoff (PENDING), the start timeout (STARTING), the longest duration (RUNNING), the next
    kill (STOPPING). `held` are the shares that may not be given to others: those of the
    placement, without the nodes that were lost.
    """

    spec: RunSpec
    order: int  # FIFO inside a priority; no two unfinished runs share one
    priority: int
    ask: Ask
    batch: BatchPlan | None
    submitted_at: Seconds
    queued_at: Seconds
    state: RunState = RunState.PENDING
    attempt: int = 0
    deadline: Seconds | None = None
    stop: StopReason | None = None
    placement: Placement | None = None
    held: tuple[Share, ...] = ()
    charge: tuple[float, float] = (0.0, 0.0)  # worth and number of the cards that it holds
    start_order: int = 0  # newest gangs are preempted first
    faults: Faults = field(default_factory=Faults)
    waits_for: tuple[RunId, ...] = ()  # runs that have yet to succeed
    given_up: tuple[GivenUp, ...] = ()  # rungs that attempts took as nothing was left to cut
    lightened: int = 0  # the attempt that named a rung which only its successor can take
    avoid: tuple[NodeId, ...] = ()  # nodes that failed this run since its last progress
    epoch: int = 0  # the highest completed
    best_epoch: int = 0  # the last that was the best until then; 0 while none is known
    pace_of_one: Seconds | None = None  # seconds of an epoch as they would be on one card
    attained: float = 0.0  # card-seconds of attempts that are over
    wanted_gpus: int | None = None  # with how many cards it shall come back; None: as many
    is_aside: bool = False  # waits out of the queue until a policy gives it cards
    pace: Seconds | None = None  # seconds of an epoch on the cards of this attempt
    progress: Progress | None = None
    checkpoints: tuple[CheckpointRef, ...] = ()
    first_started_at: Seconds | None = None
    attempt_started_at: Seconds | None = None
    ran_seconds: Seconds = 0.0  # of attempts that are over
    ended_at: Seconds | None = None
    cause: Cause | None = None
    detail: str = ""
    gpu: str = ""
    story: tuple[tuple[Seconds, str, RunState, RunState], ...] = ()  # the last moves, of few bytes

    @property
    def attempt_id(self) -> AttemptId:
        """The attempt that holds the fence."""
        return AttemptId(run_id=self.spec.run_id, number=self.attempt)

    @property
    def key(self) -> tuple[int, int]:
        """Place in the queue: the smaller key goes first."""
        return (-self.priority, self.order)

    @property
    def is_queued(self) -> bool:
        """True while it waits in the queue: not for a moment, other runs or a policy's round."""
        is_free = self.deadline is None and not self.waits_for and not self.is_aside
        return self.state is RunState.PENDING and is_free

    @property
    def saving_mode(self) -> StopMode:
        """How the gang leaves soonest without losing what it has trained."""
        return StopMode.AT_BATCH if self.spec.keeps_epochs else StopMode.AFTER_EPOCH

    @property
    def is_leaving_soon(self) -> bool:
        """True when the gang will be gone within the yield grace, or is killed."""
        return self.state is RunState.STOPPING and self.deadline is not None

    def move(self, trigger: type, to: RunState, at: Seconds) -> None:
        """Go to another state, or stay, by a row of the table.

        Raises:
            TransitionError: there is no such row.
        """
        row = TRANSITIONS[trigger].get(self.state)
        if row is None or to not in row:
            raise self.bug(f"{trigger.__name__} leads from {self.state} to {to}", at)
        self.story = (*self.story, (at, trigger.__name__, self.state, to))[-STORY_LENGTH:]
        self.state = to

    def bug(self, what: str, at: Seconds) -> TransitionError:
        """The error that tells the run's story."""
        lines = [
            f"at {when:.3f} {name}: {before} -> {after}" for when, name, before, after in self.story
        ]
        return TransitionError(
            f"run {self.spec.run_id}, attempt {self.attempt}, at {at:.3f}: {what},"
            " which no row of the transition table allows",
            why=(*lines, f"now {self.state}" + (f" ({self.stop})" if self.stop else "")),
        )


def check(records: Iterable[RunRecord]) -> None:
    """Check every law that concerns one record; for tests and simulations.

    Raises:
        AssertionError: a law is broken; the message names the run.
    """
    for record in records:
        name = f"{record.spec.run_id} {record.state}"
        if record.state.holds_gpus:
            assert record.placement is not None, name
            assert record.placement.world_size == record.ask.num_workers, f"{name}: not whole"
            assert set(record.held) <= set(record.placement.shares), name
            if record.state is not RunState.STOPPING:
                assert record.held == record.placement.shares, f"{name}: not whole"
        else:
            assert not record.held, f"{name}: holds cards"
        assert (record.stop is not None) == (record.state is RunState.STOPPING), name
        assert (record.ended_at is not None) == record.state.is_terminal, name
        if record.state is RunState.STARTING:
            assert record.deadline is not None, f"{name}: could wait for ever"
        if record.batch is not None:
            assert record.batch.effective_batch == record.spec.effective_batch, name
            assert record.batch.world_size == record.ask.num_workers, name
            least = record.spec.min_gpus or record.spec.num_gpus
            assert least <= record.ask.num_workers <= record.spec.num_gpus, name
