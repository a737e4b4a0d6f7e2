"""What must hold of everything a driver did, checked from its record alone; shares no code with it.

The record is what could be seen from outside: events that the store took, rows that were
published, actions that the cluster was given, wishes that were acknowledged, deaths of drivers.
The letters are those of the contract:

I1 every acknowledged run is there. I2 a wish with one key is one run. I3 a success is final,
another end changes only when a person asks, and nothing starts that was cancelled. I4 one result a
run, one row an epoch. I5 every run has one outcome. I6 attempts are counted one by one, an older
one writes nothing. I7 one effective attempt a run. I8 no byte of a card, and no CPU of a node, is
given twice. I9 nothing expires early, no duration is negative. I10 an attempt is told of the
recorded checkpoints, newest first, all of them. I11 no run is given up while its budget lasts, and
none goes on beyond it. I12 everything ends in time. I13 the journal replays to the same state. I14
the results are those that were asked for: each epoch of each run that succeeded exactly once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.cluster.sim_rooms import SLACK, LawBrokenError, Rooms, check_times, demand
from orchestrator.messages import (
    Action,
    AskNodes,
    AttemptEvent,
    CancelRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    KillGang,
    PreemptGang,
    ProgressReported,
    ResumeRequested,
    RunSubmitted,
    StartGang,
)
from orchestrator.types import (
    Cause,
    CheckpointRef,
    Progress,
    RunId,
    RunSpec,
    RunState,
    RunStatus,
    Seconds,
)

__all__ = ["Observer"]

# The class of a cause, and whether an epoch pays it back; written down here a second time.
_BUDGETS = {
    Cause.USER_ERROR: "user_errors",
    Cause.NAN_LOSS: "nan_losses",
    Cause.OUT_OF_MEMORY: "out_of_memory",
    Cause.HANG: "hangs",
    Cause.DEVICE_FAULT: "device_faults",
    Cause.DISK_FULL: "disk_full",
    Cause.STORAGE_FAULT: "storage_faults",
    Cause.NODE_LOST: "node_losses",
    Cause.KILLED: "kills",
    Cause.WORKER_LOST: "losses_without_progress",
    Cause.START_FAILED: "losses_without_progress",
    Cause.HOST_OUT_OF_MEMORY: "losses_without_progress",
}
_OWN = ("user_errors", "nan_losses", "out_of_memory")


@dataclass(slots=True)
class _Run:
    """One run, as the record tells it."""

    spec: RunSpec
    attempt: int = 0  # published
    started: int = 0
    epoch: int = 0
    paid_epoch: int = 0  # the highest one that paid for losses
    epochs: set[tuple[int, int]] = field(default_factory=set)  # attempt, epoch
    finished: int = 0
    num_nodes_lost: int = 0
    spent: dict[str, int] = field(default_factory=dict)
    refs: list[CheckpointRef] = field(default_factory=list)
    status: RunStatus | None = None
    is_resumed: bool = False
    is_cancelled: bool = False
    is_to_end: bool = False  # the last wish about it was to stop


class Observer:
    """Takes the record as it grows, and raises at the first law that does not hold.

    Args:
        start_timeout_seconds: As the scheduler was told.
        grace_seconds: The yield grace, as the scheduler was told.
        clock: Tells the true time.
    """

    def __init__(
        self,
        *,
        start_timeout_seconds: Seconds,
        grace_seconds: Seconds,
        clock: Callable[[], Seconds],
    ) -> None:
        self._start_timeout = start_timeout_seconds
        self._grace = grace_seconds
        self._clock = clock
        self._runs: dict[RunId, _Run] = {}
        self._asked: dict[str, RunSpec] = {}  # acknowledged, by key
        self._rooms = Rooms()
        self.num_checks = 0

    # --- the record

    def acknowledged(self, spec: RunSpec, key: str) -> None:
        """A person was told that a run is asked for."""
        self._asked.setdefault(key, spec)

    def recorded(self, event: Event) -> None:
        """The store took an event."""
        self.num_checks += 1
        match event:
            case RunSubmitted(spec=spec):
                demand("I2", spec.run_id not in self._runs, f"{spec.run_id} is submitted twice")
                self._runs[spec.run_id] = _Run(spec)
            case ResumeRequested(run_id=run_id) if run_id in self._runs:
                self._runs[run_id].is_resumed, self._runs[run_id].is_to_end = True, False
            case CancelRequested(run_id=run_id) if run_id in self._runs:
                self._runs[run_id].is_cancelled = self._runs[run_id].is_to_end = True
            case AttemptEvent():
                self._said(event)
            case _:
                for attempt in self._rooms.happened(event):
                    self._runs[attempt.run_id].num_nodes_lost += 1

    def published(self, statuses: Sequence[RunStatus]) -> None:
        """The rows that people read were changed."""
        for status in statuses:
            run = self._runs.get(status.run_id)
            if run is None:
                raise LawBrokenError("I1", f"{status.run_id} was published but never recorded")
            if run.status is not None:
                self._changed(run, run.status, status)
            run.status = status
            run.attempt = max(run.attempt, status.attempt)
            check_times(status)
            self._check_end(run, status)

    def ordered(self, action: Action) -> None:
        """The cluster was given an action."""
        self.num_checks += 1
        if isinstance(action, AskNodes):
            return
        if isinstance(action, StartGang):
            self._started(action)
            return
        gang = self._rooms.gangs.get(action.attempt)
        run = self._runs[action.attempt.run_id]
        if gang is None or run.status is None:
            return  # it has ended, or was never started: the cluster ignores it
        is_timeout = run.status.detail == "the gang did not start in time"
        if isinstance(action, KillGang) and is_timeout and not gang.asked:
            waited = self._clock() - gang.since
            demand("I9", waited >= self._start_timeout - SLACK, f"killed after {waited:.0f} s")
        if isinstance(action, PreemptGang):
            demand(
                "I6", gang.up_at is not None, f"{action.attempt} is asked politely before it is up"
            )
        gang.asked = True
        if isinstance(action, KillGang):
            gang.killed_at = self._clock()

    def driver_died(self) -> None:
        """The driver died, and its gangs with it; the next one is told of the nodes anew."""
        self._rooms.gangs.clear()
        self._rooms.nodes.clear()

    def ended(
        self,
        rows: dict[RunId, tuple[Progress, ...]],
        published: dict[RunId, RunStatus],
        replayed: dict[RunId, RunStatus],
    ) -> None:
        """Nothing more is to come: check what is left behind.

        Args:
            rows: The epochs of each run.
            published: The rows that people read.
            replayed: What another scheduler makes of the journal.
        """
        for key, spec in self._asked.items():
            demand("I1", spec.run_id in self._runs, f"{spec.run_id} ({key}) was lost")
        demand("I13", published == replayed, "the journal replays to another state")
        demand("I14", set(published) == set(self._runs), "other runs than those asked for")
        for run_id, run in self._runs.items():
            status = published[run_id]
            epochs = [row.epoch for row in rows[run_id]]
            demand("I5", status.state.is_terminal, f"{run_id} ended as {status.state}")
            is_gapless = epochs == list(range(1, len(epochs) + 1))
            demand("I4", is_gapless, f"{run_id} has the rows {epochs}")
            if status.state is RunState.SUCCEEDED:
                demand("I4", run.finished == 1, f"{run_id} has {run.finished} results")
                is_whole = len(epochs) == run.spec.settings.epochs == status.epoch
                demand("I14", is_whole, f"{run_id} succeeded with {len(epochs)} epochs")
            else:
                demand("I4", run.finished == 0, f"{run_id} has a result and is {status.state}")

    # --- the laws

    def _said(self, event: AttemptEvent) -> None:
        run = self._runs.get(event.attempt.run_id)
        if run is None or run.status is None:
            raise LawBrokenError("I1", f"{event} of a run that nobody asked for")
        is_newest = event.attempt.number == run.attempt
        demand("I6", is_newest, f"{event.attempt} wrote, attempt {run.attempt} is current")
        demand("I3", not run.status.state.is_terminal, f"{event.attempt} wrote after the end")
        is_held = run.status.state.holds_gpus
        match event:
            case GangStarted() if event.attempt in self._rooms.gangs:
                self._rooms.gangs[event.attempt].come_up(self._clock())
            case ProgressReported():
                self._completed(run, event, is_held=is_held)
            case GangFinished() if is_held:
                run.finished += 1
            case GangFailed(cause=cause) if is_held and cause in _BUDGETS:
                name = _BUDGETS[cause]
                run.spent[name] = run.spent.get(name, 0) + 1
            case _:
                pass
        if isinstance(event, GangFinished | GangYielded | GangFailed):
            self._rooms.gangs.pop(event.attempt, None)

    def _completed(self, run: _Run, event: ProgressReported, *, is_held: bool) -> None:
        epoch, ref = event.progress.epoch, event.checkpoint
        gang = self._rooms.gangs.get(event.attempt)
        if gang is not None and is_held:
            gang.check_time(self._clock(), self._grace + SLACK)
        name = f"epoch {epoch} of {event.attempt}"
        demand("I14", epoch <= run.epoch + 1, f"{name} follows epoch {run.epoch}")
        is_new = (event.attempt.number, epoch) not in run.epochs
        demand("I4", is_new, f"{name} is recorded twice")
        run.epochs.add((event.attempt.number, epoch))
        run.epoch = max(run.epoch, epoch)
        if is_held and ref is not None:
            run.refs.insert(0, ref)
            if epoch > run.paid_epoch:
                run.paid_epoch = epoch
                run.spent = {name: num for name, num in run.spent.items() if name in _OWN}

    def _changed(self, run: _Run, before: RunStatus, after: RunStatus) -> None:
        name = f"{after.run_id}: {before.state} -> {after.state}"
        if before.state is RunState.SUCCEEDED:
            demand("I3", after.state is RunState.SUCCEEDED, name)
        elif before.state.is_terminal and after.state is not before.state:
            demand("I3", run.is_resumed, f"{name}, and nobody asked")
        if before.state.is_terminal and not after.state.is_terminal:
            run.spent.clear()
        if not after.state.is_terminal:
            run.is_resumed = run.is_resumed and before.state.is_terminal
        step = after.attempt - before.attempt
        demand("I6", 0 <= step <= 1, f"{name}, attempt {before.attempt} -> {after.attempt}")
        demand("I14", after.epoch >= before.epoch, f"{name}, epoch {after.epoch}")

    def _check_end(self, run: _Run, status: RunStatus) -> None:
        name = f"{status.run_id} is {status.state}"
        if status.state is RunState.SUCCEEDED:
            demand("I4", run.finished == 1, f"{name} with {run.finished} results")
        elif status.state is RunState.CANCELLED:
            demand("I3", run.is_cancelled, f"{name}, and nobody asked")
        elif status.state is RunState.FAILED and status.cause in _BUDGETS:
            budget = _BUDGETS[status.cause]
            allowed, spent = getattr(run.spec.retry, budget), run.spent.get(budget, 0)
            if budget not in _OWN:  # kills and losses of nodes may stand for another cause
                spent += run.spent.get("kills", 0) + run.num_nodes_lost
            is_spent = spent > allowed or budget == "out_of_memory"
            demand("I11", is_spent, f"{name} for {status.cause} after {spent} of {allowed}")

    def _started(self, start: StartGang) -> None:
        attempt, run = start.attempt, self._runs[start.attempt.run_id]
        status = run.status
        is_current = status is not None and status.attempt == attempt.number
        demand("I6", is_current, f"{attempt} starts, and is not what was published")
        demand("I6", attempt.number > run.started, f"{attempt} is started twice")
        run.started = attempt.number
        demand("I3", not run.is_to_end, f"{attempt} starts, and its run was cancelled")
        for name in _BUDGETS.values():
            spent, allowed = run.spent.get(name, 0), getattr(run.spec.retry, name)
            demand("I11", spent <= allowed, f"{attempt} starts after {spent} {name}")
        told = list(start.checkpoints)
        demand("I10", told == run.refs, f"{attempt} is told of {len(told)} checkpoints")
        batch = start.batch
        taken = sum(sum(batch.pieces_of(rank)) for rank in range(batch.world_size))
        is_exact = taken == run.spec.effective_batch
        demand("I14", is_exact, f"{attempt} trains another batch than was asked for")
        self._rooms.start(start, self._clock())
