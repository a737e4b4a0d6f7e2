"""What can be done with a run: wait, start, be asked to leave, be killed, end."""

from dataclasses import replace

from orchestrator.messages import Action, KillGang, PreemptGang, StartGang
from orchestrator.plan.batch import recut_over
from orchestrator.plan.ladder import spec_after
from orchestrator.schedule.asks import Router
from orchestrator.schedule.dependencies import Dependencies, why_not
from orchestrator.schedule.dispatch import Dispatch
from orchestrator.schedule.fair import FairShare
from orchestrator.schedule.forecast import Forecasts
from orchestrator.schedule.health import Health
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.order import EvictionOrder, Queue
from orchestrator.schedule.policy import Sizing
from orchestrator.schedule.runs import Bereft, Outranked, Placed, RunRecord
from orchestrator.schedule.status import gpu_text
from orchestrator.schedule.timers import Timers
from orchestrator.types import (
    Cause,
    Placement,
    RunId,
    RunState,
    Seconds,
    StopMode,
    StopReason,
)

__all__ = ["Lifecycle"]


class Lifecycle:
    """All records with the books that are kept about them; every change goes through here."""

    def __init__(
        self,
        *,
        preempt: bool,
        start_timeout_seconds: Seconds,
        yield_grace_seconds: Seconds,
        hold_after_seconds: Seconds,
        strict_order: bool = False,
    ) -> None:
        self.runs: dict[RunId, RunRecord] = {}
        self.dependencies = Dependencies(self.runs)
        self.ledger = Ledger()
        self.health = Health(self.ledger)
        self.router = Router(self.ledger)
        self.queue = Queue()
        self.timers = Timers()
        self.sizing: Sizing | None = None  # where a policy says who gets how many cards
        self.fair = FairShare()
        self.forecasts = Forecasts()
        self.now: Seconds = 0.0
        self.changed: dict[RunId, None] = {}
        self.actions: list[Action] = []
        self.num_unfinished = 0
        self.num_queued = 0
        self.is_draining = False  # the driver leaves: nothing starts
        self._num_started = 0
        self._evictions = EvictionOrder(is_allowed=preempt)
        self._leaving: dict[RunId, None] = {}
        self._start_timeout = start_timeout_seconds
        self._grace = yield_grace_seconds
        self.dispatch = Dispatch(
            runs=self.runs,
            ledger=self.ledger,
            health=self.health,
            router=self.router,
            queue=self.queue,
            evictions=self._evictions,
            leaving=self._leaving,
            hold_after_seconds=hold_after_seconds,
            is_strict=strict_order,
            fair=self.fair,
            forecasts=self.forecasts,
        )

    def next_order(self) -> int:
        """A place at the end of the queue."""
        self.num_queued += 1
        return self.num_queued

    def first_order(self) -> int:
        """A place at the front of the queue."""
        return min((r.order for r in self.runs.values() if not r.state.is_terminal), default=1) - 1

    def order_before(self, other: RunRecord, record: RunRecord) -> int:
        """The place just before `other` for `record`; those who are in the way move up by one."""
        unfinished = [r for r in self.runs.values() if not r.state.is_terminal and r is not record]
        taken = {r.order: r for r in unfinished}
        free = other.order - 1
        while free in taken:
            free -= 1
        for order in range(free + 1, other.order):
            self.changed[taken[order].spec.run_id] = None
            self.reorder(taken[order], taken[order].priority, order - 1)
        return other.order - 1

    def wait(self, record: RunRecord, *, seconds: Seconds = 0.0) -> None:
        """Queue a run that is PENDING, after a backoff where one is given.

        One that comes after other runs joins the queue when those have succeeded.
        """
        self.changed[record.spec.run_id] = None
        if seconds > 0:
            self.timers.set(record, self.now + seconds)
        else:
            self.timers.set(record, None)
            record.queued_at = self.now
            self._size(record)
            if record.is_queued:
                self.queue.add(record)

    def _size(self, record: RunRecord) -> None:
        """Give a run that waits the number of cards that a policy wants for it, if one does."""
        if record.wanted_gpus is None:
            if self.sizing is not None and self.sizing.joins(record) and not record.attempt:
                record.is_aside = True  # the next round decides
            return
        width, record.wanted_gpus = record.wanted_gpus, None
        record.is_aside = width == 0
        if width and record.batch is not None:
            record.ask = replace(record.ask, num_workers=width)
            record.batch = recut_over(record.batch, width)

    def leave_queue(self, record: RunRecord) -> None:
        """Take a run that is PENDING out of the queue."""
        self.timers.set(record, None)
        self.queue.remove(record)
        self.dispatch.drop(record)

    def start(self, record: RunRecord, placement: Placement) -> None:
        """Begin the next attempt on a placement."""
        assert record.batch is not None, "a run whose batch cannot be cut is never queued"
        self.queue.remove(record)
        record.move(Placed, RunState.STARTING, self.now)
        self._num_started += 1
        record.attempt += 1
        record.start_order = self._num_started
        record.placement, record.held = placement, placement.shares
        record.gpu = gpu_text(placement, self.ledger)
        record.detail = ""
        record.pace = None
        self.ledger.take(record.spec.run_id, placement.shares, is_whole=record.ask.size is None)
        record.charge = self.ledger.charge(placement.shares, is_whole=record.ask.size is None)
        self.fair.take(record.spec.queue, *record.charge, self.now)
        self._evictions.add(record)
        self.timers.set(record, self.now + self._start_timeout)
        self.changed[record.spec.run_id] = None
        self.actions.append(
            StartGang(
                attempt=record.attempt_id,
                spec=spec_after(record.spec, record.given_up),
                batch=record.batch,
                placement=placement,
                checkpoints=record.checkpoints,
                weights=self.dependencies.weights(record.spec),
            )
        )

    def evict(self, record: RunRecord, outranked_by: RunRecord) -> None:
        """Ask a gang to leave for a run of higher priority; one that has not begun is killed."""
        is_kill = record.state is RunState.STARTING
        mode = None if is_kill else StopMode.AT_BATCH
        self.stop(record, Outranked, StopReason.PREEMPTED, mode)
        record.detail = (
            f"makes room for {outranked_by.spec.run_id}"
            f" (priority {outranked_by.priority} > {record.priority})"
        )
        self.changed[outranked_by.spec.run_id] = None

    def stop(
        self, record: RunRecord, trigger: type, reason: StopReason, mode: StopMode | None
    ) -> None:
        """Ask a gang to leave, or kill it (mode None); its cards are free when it has left."""
        record.move(trigger, RunState.STOPPING, self.now)
        record.stop = reason
        self._end_of_training(record)
        self._evictions.remove(record)
        self.changed[record.spec.run_id] = None
        if mode is None:
            self.kill(record)
            return
        self.actions.append(PreemptGang(attempt=record.attempt_id, mode=mode))
        if mode is not StopMode.AFTER_EPOCH:
            self._leaves_by(record)
            return
        self.timers.set(record, None)  # an epoch may take as long as it takes
        self._note(record)

    def kill(self, record: RunRecord) -> None:
        """End a gang's processes; done again after each grace until the world says it is gone."""
        self.actions.append(KillGang(attempt=record.attempt_id))
        self._leaves_by(record)

    def release(self, record: RunRecord) -> None:
        """The attempt is over: what it held is free."""
        self._end_of_training(record)
        self.ledger.give_back(record.spec.run_id, record.held)
        if self.dispatch.finding.placing is not None:
            self.dispatch.finding.placing.company.left(record.spec.run_id, self.now)
        worth, num_gpus = record.charge
        if num_gpus:
            self.fair.take(record.spec.queue, -worth, -num_gpus, self.now)
            record.charge = (0.0, 0.0)
        record.held, record.placement, record.stop = (), None, None
        self._evictions.remove(record)
        self._leaving.pop(record.spec.run_id, None)
        self.timers.set(record, None)
        self.changed[record.spec.run_id] = None

    def again(self, record: RunRecord, trigger: type, *, seconds: Seconds = 0.0) -> None:
        """The attempt is over; the run waits for the next one."""
        record.move(trigger, RunState.PENDING, self.now)
        self.release(record)
        record.gpu = ""
        self.wait(record, seconds=seconds)

    def end(
        self,
        record: RunRecord,
        trigger: type,
        to: RunState,
        *,
        detail: str = "",
        cause: Cause | None = None,
    ) -> None:
        """The run is over, and with it the waiting of what comes after it."""
        self._end(record, trigger, to, detail, cause)
        ended = [record]
        while ended:
            one = ended.pop()
            for follower in self.dependencies.settle(one):
                if one.state is RunState.SUCCEEDED:
                    self.wait(follower)
                    continue
                self._end(follower, Bereft, RunState.FAILED, why_not(one), Cause.DEPENDENCY_FAILED)
                ended.append(follower)

    def reorder(self, record: RunRecord, priority: int, order: int) -> None:
        """Change a run's place in the queue wherever it stands."""
        is_waiting = record.is_queued
        is_evictable = record.state in (RunState.STARTING, RunState.RUNNING)
        if is_waiting:
            self.leave_queue(record)
        if is_evictable:
            self._evictions.remove(record)
        record.priority, record.order = priority, order
        if is_waiting:
            self.queue.add(record)
        if is_evictable:
            self._evictions.add(record)
            self._note(record)
        self.queue.forget()

    def inventory_changed(self) -> None:
        """Nodes came, went or changed: what could ever hold a waiting run may be another."""
        self.dispatch.doubt()
        for shape in self.queue.shapes.values():
            shape.patience.clear()
            route = self.router.route(shape.ask)
            if route != shape.route:
                shape.route = route
                shape.forget()
                self.queue.is_fresh = True
                self.changed.update((run_id, None) for _, _, run_id in shape.waiting)

    def _end(
        self, record: RunRecord, trigger: type, to: RunState, detail: str, cause: Cause | None
    ) -> None:
        record.move(trigger, to, self.now)
        self.release(record)
        record.waits_for = ()
        record.ended_at, record.detail, record.cause = self.now, detail, cause
        self.num_unfinished -= 1
        self.forecasts.ended(record, self.now)

    def _leaves_by(self, record: RunRecord) -> None:
        self.timers.set(record, self.now + self._grace)
        if record.spec.run_id not in self._leaving:
            self._leaving[record.spec.run_id] = None
            self._note(record)
        self.dispatch.leaves(record)

    def _note(self, record: RunRecord) -> None:
        """Who could leave the nodes of a gang, and for whom, is another than before."""
        for share in record.held:
            self.ledger.note(share.node_id)

    def _end_of_training(self, record: RunRecord) -> None:
        """Count the time of an attempt until it is asked to leave, or leaves by itself."""
        if record.attempt_started_at is not None:
            seconds = self.now - record.attempt_started_at
            record.ran_seconds += seconds
            if record.placement is not None:
                record.attained += seconds * record.placement.world_size
            record.attempt_started_at = None
