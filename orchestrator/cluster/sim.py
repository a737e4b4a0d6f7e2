"""A Cluster and a Clock made of a heap of future events; time is whatever the next one says."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.cluster.script import Faults
from orchestrator.cluster.sim_cards import SimCards
from orchestrator.cluster.sim_gang import (
    DETECT_SECONDS,
    HANG_SECONDS,
    MISHAPS,
    Gang,
    Luck,
    finished,
    first_step,
    peak_bytes,
    planted,
    report,
)
from orchestrator.cluster.sim_pace import Paces, Physics, Span
from orchestrator.errors import ClusterError
from orchestrator.messages import (
    Action,
    AttemptEvent,
    Event,
    GangFailed,
    GangStarted,
    GangYielded,
    KillGang,
    NodeChanged,
    NodeJoined,
    NodeLost,
    PreemptGang,
    StartGang,
)
from orchestrator.types import AttemptId, Cause, Node, NodeId, Seconds, StopMode

__all__ = ["SimCluster"]

KILL_SECONDS = 1.0
VANISH_SECONDS = 5.0  # at most this long before the report a lost node is already gone
LATE_SECONDS = (1.0, 900.0)
MAX_EMPTY_WAITS = 10_000  # the scheduler wakes up for ever and nothing comes of it

_Step = Callable[[], Event | None]


class SimCluster:
    """Carries out actions in virtual time, with faults by chance that is keyed per attempt.

    The same attempt meets the same luck under every policy, so two policies can be compared run
    by run. Runs take the options of the fake trainer: `epoch_seconds`, `fixed_bytes`,
    `bytes_per_sample`, `oom_above_micro_batch`, `fail_at_epoch`, `nan_at_epoch`,
    `crash_at_epoch`, `hang_at_epoch`, `fault_attempts`.

    Args:
        happenings: What happens by itself (`cluster.script.events`).
        faults: How often what goes wrong.
        seed: Equal seeds and equal actions give equal events.
        physics: How long things take.
    """

    def __init__(
        self,
        happenings: Iterable[Event],
        *,
        faults: Faults | None = None,
        seed: int = 0,
        physics: Physics | None = None,
    ) -> None:
        self._now: Seconds = 0.0
        self._heap: list[tuple[Seconds, int, Gang | None, int, _Step]] = []
        self._count = 0
        self._faults = faults or Faults()
        self._luck = Luck(self._faults, seed)
        physics = physics or Physics()
        self._cards = SimCards(physics.speeds)
        self._pace = Paces(physics, self._luck, self._cards)
        self._gangs: dict[AttemptId, Gang] = {}
        self._gangs_on: dict[NodeId, dict[AttemptId, Gang]] = {}
        self._num_empty_waits = 0
        self.num_arrivals = 0  # of runs that are still to come
        self.busy_card_seconds = 0.0
        for event in happenings:
            self._expect(event)

    def now(self) -> Seconds:
        """Virtual seconds since the beginning."""
        return self._now

    def apply(self, action: Action) -> None:
        """Begin to carry out an action; one for an attempt that is over or unknown is ignored."""
        self._num_empty_waits = 0
        if isinstance(action, StartGang):
            self._start(action)
        elif isinstance(action, PreemptGang) and action.attempt in self._gangs:
            self._preempt(self._gangs[action.attempt], action.mode)
        elif isinstance(action, KillGang) and action.attempt in self._gangs:
            self._kill(self._gangs[action.attempt])

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """Let time pass to the next event, or to `until`.

        Raises:
            ClusterError: nothing will ever happen any more, or nothing comes of being woken.
        """
        while self._heap and (until is None or self._heap[0][0] <= until):
            at, _, gang, plan, step = heapq.heappop(self._heap)
            if gang is not None and gang.plan != plan:
                continue
            self._now = at
            event = step()
            if event is not None:
                self._num_empty_waits = 0
                return (event,)
        if until is None:
            raise self._stands_still("no event is to come")
        self._num_empty_waits += 1
        if self._num_empty_waits > MAX_EMPTY_WAITS:
            raise self._stands_still(f"woken up {MAX_EMPTY_WAITS} times and nothing came of it")
        self._now = max(self._now, until)
        return ()

    def _stands_still(self, why: str) -> ClusterError:
        return ClusterError(
            f"the simulation stands still at {self._now:.0f} s: {why}",
            code="E4101",
            why=(f"{len(self._gangs)} gangs, {len(self._cards.nodes)} nodes",),
        )

    def restart(self) -> None:
        """The driver died: its gangs die with it, and a new one is told of the nodes."""
        for gang in tuple(self._gangs.values()):
            self._over(gang)
        for node in self._cards.nodes.values():
            self._push(self._now, partial(NodeJoined, at=self._now, node=node))

    @property
    def nodes(self) -> dict[NodeId, Node]:
        """The nodes that are there."""
        return self._cards.nodes

    def sever(self, node_id: NodeId, *, is_spread: bool) -> None:
        """End gangs of a node: those that reach beyond it are told as lost, others in silence."""
        for gang in tuple(self._gangs_on.get(node_id, {}).values()):
            if is_spread and len({s.node_id for s in gang.start.placement.shares}) > 1:
                self._fail(gang, Cause.NODE_LOST, f"{node_id} is out of reach", DETECT_SECONDS)
            elif not is_spread:
                self._over(gang)

    def _expect(self, event: Event) -> None:
        if isinstance(event, NodeLost):
            what = f"{event.node_id}/{event.at}"
            early = self._luck.between("world", what, (0.0, VANISH_SECONDS))
            self._push(max(event.at - early, 0.0), lambda: self._vanish(event.node_id))
        is_arrival = not isinstance(event, NodeJoined | NodeLost | NodeChanged)
        self.num_arrivals += is_arrival
        self._push(event.at, lambda: self._happen(event, is_arrival))

    def _happen(self, event: Event, is_arrival: int) -> Event:
        self.num_arrivals -= is_arrival
        if isinstance(event, NodeJoined | NodeChanged):
            self._cards.nodes[event.node.node_id] = event.node
        return event

    def _vanish(self, node_id: NodeId) -> None:
        self._cards.nodes.pop(node_id, None)
        for gang in tuple(self._gangs_on.get(node_id, {}).values()):
            gang.plan += 1
            self._cards.vacate(gang.start, node_id)
            if not self._luck.strikes(gang, "silent_loss"):
                self._fail(gang, Cause.NODE_LOST, f"lost with {node_id}", DETECT_SECONDS)

    def _start(self, action: StartGang) -> None:
        resumed = action.checkpoints[0].epoch if action.checkpoints else 0
        gang = self._gangs[action.attempt] = Gang(
            start=action, epoch=resumed, since=self._now, peak_bytes=peak_bytes(action)
        )
        for share in action.placement.shares:
            self._gangs_on.setdefault(share.node_id, {})[action.attempt] = gang
        self._cards.occupy(gang.start)
        seconds = self._pace.starting(gang)
        if self._luck.strikes(gang, "slow_start"):
            seconds += self._faults.slow_start_seconds
        if any(share.node_id not in self._cards.nodes for share in action.placement.shares):
            self._fail(gang, Cause.START_FAILED, "a node of the placement is gone", DETECT_SECONDS)
        elif self._luck.strikes(gang, "start_failure"):
            self._fail(gang, Cause.START_FAILED, "a worker did not come up", (seconds, seconds))
        else:
            self._plan(gang, seconds, lambda: self._started(gang))

    def _started(self, gang: Gang) -> Event:
        gang.is_up = True
        self._pace.begin(gang)
        gang.fault = planted(gang.start)
        wrong = first_step(gang, self._luck)
        if wrong is not None:
            self._fail(gang, *wrong)
        else:
            # The epochs before them are reported as ever: mishaps have entries of their own.
            for fault, cause, told in MISHAPS:
                self._expect_mishap(gang, fault, cause, told)
            self._next_epoch(gang)
            pace = self._pace.measured(gang, self._now)
            if pace is not None:
                self._plan(gang, pace.at - self._now, lambda: self._say(gang, pace))
        return self._say(gang, GangStarted(at=self._now, attempt=gang.start.attempt))

    def _expect_mishap(self, gang: Gang, fault: str, cause: Cause, told: Span) -> None:
        if self._luck.strikes(gang, fault):
            left = (gang.start.spec.settings.epochs - gang.epoch) * gang.epoch_seconds
            after = self._luck.between(gang.start.attempt, f"{fault}/when", (0.0, left))
            self._push(self._now + after, lambda: self._befall(gang, cause, fault, told))

    def _befall(self, gang: Gang, cause: Cause, detail: str, told: Span) -> None:
        if not gang.is_over:
            gang.is_deaf = cause is Cause.HANG
            self._fail(gang, cause, detail, told)

    def _next_epoch(self, gang: Gang) -> None:
        if gang.epoch >= gang.start.spec.settings.epochs:
            self._plan(gang, 0.0, lambda: self._end(gang, finished(gang, self._now)))
            return
        fault = gang.fault
        seconds = self._pace.next_epoch(gang, self._now)
        if fault is None or gang.epoch + 1 < fault[0]:
            self._plan(gang, seconds, lambda: self._epoch(gang))
        else:
            _, cause, detail = fault
            told = HANG_SECONDS if cause is Cause.HANG else (gang.epoch_seconds / 2,) * 2
            self._befall(gang, cause, detail, told)

    def _epoch(self, gang: Gang) -> Event:
        gang.epoch += 1
        gang.done = 0.0
        epochs = gang.start.spec.settings.epochs
        if gang.leaves_after_epoch and gang.epoch < epochs:
            self._leave(gang)
        else:
            self._next_epoch(gang)
        return self._say(gang, report(gang, self._now, self._pace.num_images(gang, gang.epoch)))

    def _preempt(self, gang: Gang, mode: StopMode) -> None:
        if mode is StopMode.AFTER_EPOCH or not gang.is_up:
            gang.leaves_after_epoch = True
        elif not gang.is_deaf and not self._luck.strikes(gang, "lost_yield"):
            gang.plan += 1
            self._pace.interrupt(gang, self._now)
            self._leave(gang)

    def _leave(self, gang: Gang) -> None:
        yielded = partial(GangYielded, attempt=gang.start.attempt)
        self._plan(gang, self._pace.leaving(gang), lambda: self._end(gang, yielded(at=self._now)))

    def _kill(self, gang: Gang) -> None:
        gang.num_kills += 1
        is_lost = gang.num_kills == 1 and self._luck.strikes(gang, "lost_kill")
        is_beyond = all(s.node_id not in self._cards.nodes for s in gang.start.placement.shares)
        if not is_lost and not is_beyond:
            self._fail(gang, Cause.KILLED, "killed", (KILL_SECONDS, KILL_SECONDS))

    def _fail(self, gang: Gang, cause: Cause, detail: str, told: Span) -> None:
        gang.plan += 1
        after = self._luck.between(gang.start.attempt, f"fail/{cause}", told)
        failed = partial(GangFailed, attempt=gang.start.attempt, cause=cause, detail=detail)
        self._plan(gang, after, lambda: self._end(gang, failed(at=self._now)))

    def _end(self, gang: Gang, event: AttemptEvent) -> Event:
        self._over(gang)
        self._say(gang, event)
        if self._luck.strikes(gang, "late_event"):
            attempt = gang.start.attempt
            old = gang.events[int(self._luck.of(attempt, "late/which") * len(gang.events))]
            late = self._now + self._luck.between(attempt, "late/when", LATE_SECONDS)
            self._push(late, lambda: replace(old, at=self._now))
        return event

    def _over(self, gang: Gang) -> None:
        gang.is_over = True
        gang.plan += 1
        self._gangs.pop(gang.start.attempt, None)
        for share in gang.start.placement.shares:
            self._gangs_on[share.node_id].pop(gang.start.attempt, None)
        self._cards.vacate(gang.start)
        self.busy_card_seconds += (self._now - gang.since) * gang.start.placement.world_size

    def _say(self, gang: Gang, event: AttemptEvent) -> AttemptEvent:
        if self._faults.late_event:
            gang.events.append(event)
        return event

    def _plan(self, gang: Gang, seconds: Seconds, step: _Step) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self._now + seconds, self._count, gang, gang.plan, step))

    def _push(self, at: Seconds, step: _Step) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, None, 0, step))
