"""The Cluster on Ray: gangs become actors on the cards that were chosen, refs become events."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray

from orchestrator.cluster.attempt_files import told_log
from orchestrator.cluster.beat import Beat
from orchestrator.cluster.endings import (
    LOST_CONTACT,
    Ending,
    ending_event,
    failure,
    told_by_ray,
)
from orchestrator.cluster.gang import GONE_SECONDS, Gang, Rank
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.inbox import InboxReader, Report
from orchestrator.cluster.launch import Launcher
from orchestrator.cluster.meeting import Started
from orchestrator.cluster.nodes import RayNodes
from orchestrator.cluster.pulse import Patience
from orchestrator.cluster.spares import Expected
from orchestrator.messages import Action, Event, GangStarted, KillGang, PreemptGang, StartGang
from orchestrator.ports import Parts
from orchestrator.types import AttemptId, Card, Cause, Outcome, Seconds, StopMode

__all__ = ["RayCluster"]


class RayCluster:
    """Implements Cluster and Clock on a Ray that `cluster.session` has connected.

    One waited ref a rank and phase (start, fit), the inbox, a placement group that is being made, a
    node whose cards are being listed; `ray.wait` on all of them is the only blocking call. Ray
    restarts and retries nothing: that is the scheduler's.

    Args:
        parts: Handed to every worker.
        list_cards: Lists the real cards of the host it runs on.
        local_cards: Of this machine when the Ray is our own; None asks the nodes of one joined.
        patience: How long a worker may be silent before it counts as hung.
        expected: Runs that will come soon: their processes are made at once.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        list_cards: Callable[[], Sequence[Card]],
        local_cards: Sequence[Card] | None = None,
        patience: Patience | None = None,
        expected: Expected | None = None,
    ) -> None:
        self._zero = time.time() - _uptime()
        self._nodes = RayNodes(list_cards, local_cards)
        self._launcher = Launcher(parts, self._nodes, expected)
        self._patience = patience or Patience()
        self._hangs = HangWatch(self._patience)
        self._gangs: dict[AttemptId, Gang] = {}
        self._reader = InboxReader(self._nodes.own_id, self._gangs.__contains__)
        self._refs: dict[Any, tuple[Gang, Rank]] = {}
        self._unsettled: dict[AttemptId, Gang] = {}  # a rank has ended, and others have not
        self._beat = Beat()
        self._early: deque[Event] = deque()  # known before anything had to be waited for

    def now(self) -> Seconds:
        """Seconds since the Unix epoch; a clock that is set while we run changes nothing."""
        return self._zero + _uptime()

    def apply(self, action: Action) -> None:
        """Begin to carry out an action; what comes of it is an event."""
        match action:
            case StartGang():
                self._early += self._start(action)
            case PreemptGang(attempt=attempt, mode=mode):
                self._preempt(attempt, mode)
            case KillGang(attempt=attempt):
                self._kill(attempt, failure(Cause.KILLED, "killed on request"))
            case _:
                pass  # nodes are asked for by `cluster.scaling`

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """Return what happened, at the latest at `until` or after half a second.

        What the last call returned counts as recorded when this one begins.

        Raises:
            ClusterError: Ray, or this machine's part of it, is gone.
        """
        self._reader.catch_up()
        self._nodes.held = {node for gang in self._gangs.values() for node in gang.nodes}
        events = [*self._compare(), *self._early]
        self._early.clear()
        timeout = self._beat.seconds(self.now(), until)
        for attempt, doom in self._hangs.overdue():
            self._kill(attempt, doom)
        for ref in self._ready(0.0 if events else timeout):
            events += self._resolve(ref)
        for gang in tuple(self._unsettled.values()):
            events += self._settle(gang)
        self._launcher.remove_idle(self.now())
        return events

    def close(self) -> None:
        """End every gang, and give back what was taken from Ray."""
        for gang in self._gangs.values():
            gang.kill()
        self._gangs.clear()
        self._unsettled.clear()
        self._refs.clear()
        self._launcher.close()
        self._reader.close()

    def _compare(self, *, is_due: bool = False) -> list[Event]:
        events = self._nodes.compare(self.now(), is_due=is_due)
        self._launcher.see(events)
        return events

    def _ready(self, timeout: Seconds) -> list[Any]:
        refs = [self._reader.polled, *self._launcher.waited, *self._nodes.waited, *self._refs]
        refs += self._hangs.waited
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if ready:  # whatever else is ready comes along
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ready)

    def _resolve(self, ref: Any) -> list[Event]:
        if ref == self._reader.polled:
            return self._read()
        if ref in self._launcher.waited:
            self._launcher.resolve(ref)
            return self._launch_waiting()
        if ref in self._nodes.waited:
            return self._nodes.resolve(ref, self.now())
        for hung, doom in self._hangs.resolve(ref):
            self._kill(hung, doom)
        gang, rank = self._refs.pop(ref, (None, None))
        if gang is None or rank is None:
            return []  # ended by something that was ready together with it
        return self._advance(gang, rank)

    def _advance(self, gang: Gang, rank: Rank) -> list[Event]:
        """A rank is up, has ended, or died."""
        ref, rank.waited = rank.waited, None
        events: list[Event] = []
        try:
            answer: Started | Ending = ray.get(ref)
        except ray.exceptions.RayError as error:
            events += self._compare(is_due=True)
            rank.ending = self._death(gang, rank, error)
        else:
            if isinstance(answer, Ending):
                rank.ending = answer
            else:
                rank.started = answer
                if gang.is_up and gang.doom is None:
                    return self._train(gang)
        return [*events, *self._settle(gang)]

    def _train(self, gang: Gang) -> list[Event]:
        """Every rank is up: let them train, unless they cannot together."""
        fault = gang.fault_of_start()
        if fault is not None:
            gang.ranks[0].ending = fault
            return self._settle(gang)
        gang.is_running = True
        patience = self._patience.of_run(gang.order.spec.hang_seconds)
        meetings = gang.meetings(patience.meeting_seconds)
        for rank, meeting in zip(gang.ranks, meetings, strict=True):
            rank.waited = rank.actor.fit.remote(meeting)
            self._refs[rank.waited] = (gang, rank)
        self._hangs.begin(gang, [self._nodes.ray_id(rank.node_id) for rank in gang.ranks])
        pids = tuple(rank.started.pid for rank in gang.ranks if rank.started is not None)
        return [GangStarted(at=self.now(), attempt=gang.attempt, pids=pids)]

    def _start(self, order: StartGang) -> list[Event]:
        gang = self._gangs[order.attempt] = Gang.of(order, self._nodes.get)
        refusal = self._launcher.start(gang, self._reader.handle)
        if refusal is not None:
            return self._end(gang, refusal)
        if gang.is_launched:
            self._await(gang)
            return []
        return self._launch_waiting()

    def _launch_waiting(self) -> list[Event]:
        events: list[Event] = []
        for attempt, fault in self._launcher.launch_waiting(self._reader.handle, self.now()):
            events += self._end(self._gangs[attempt], fault)
        for gang in self._gangs.values():
            if gang.is_launched and not gang.is_running:
                self._await(gang)
        return events

    def _await(self, gang: Gang) -> None:
        for rank in gang.ranks:
            if rank.waited is not None:
                self._refs[rank.waited] = (gang, rank)

    def _preempt(self, attempt: AttemptId, mode: StopMode) -> None:
        gang = self._gangs.get(attempt)
        if gang is None or gang.doom is not None:
            return
        if not gang.is_running:  # nothing was trained yet, so nothing has to be saved
            self._kill(attempt, Ending(outcome=Outcome.YIELDED))
        for rank in gang.ranks if gang.is_running else ():  # they leave at a step of rank 0
            rank.actor.ask_stop.remote(mode)

    def _kill(self, attempt: AttemptId, doom: Ending) -> None:
        gang = self._gangs.get(attempt)
        if gang is None or gang.doom is not None:
            return
        if gang.is_launched:
            self._doom(gang, doom)
        else:
            self._early += self._end(gang, doom)

    def _doom(self, gang: Gang, doom: Ending) -> None:
        """Kill what is left of a gang; the end is told when it is gone."""
        gang.doom, gang.gone_by = doom, self.now() + GONE_SECONDS
        gang.kill()  # their refs answer with the death
        self._unsettled[gang.attempt] = gang

    def _settle(self, gang: Gang) -> list[Event]:
        """A rank has ended: end the gang as soon as it is known how, and all are gone."""
        self._unsettled[gang.attempt] = gang
        if gang.doom is None:
            verdict = gang.verdict(self.now())
            if verdict is None:
                return []
            self._launcher.keep(gang, verdict, self.now())
            self._doom(gang, self._cause_of(gang, verdict))
        assert gang.doom is not None
        if not gang.is_gone and self.now() < gang.gone_by:
            return []
        return self._end(gang, gang.doom)

    def _cause_of(self, gang: Gang, verdict: Ending) -> Ending:
        """Lost contact is explained by a node that has gone meanwhile."""
        lost = sorted(node for node in gang.nodes if self._nodes.get(node) is None)
        if verdict.code == LOST_CONTACT and lost:
            return failure(Cause.NODE_LOST, f"{', '.join(lost)} is gone; {verdict.detail}")
        return verdict

    def _end(self, gang: Gang, ending: Ending) -> list[Event]:
        """Everything that the attempt still said, then its end."""
        events = self._said() if gang.is_running else []
        self._beat.ended(self.now())
        del self._gangs[gang.attempt]
        self._unsettled.pop(gang.attempt, None)
        for rank in gang.ranks:
            self._refs.pop(rank.waited, None)
        self._launcher.give_back(gang.attempt)
        self._hangs.end(gang.attempt)
        gang.kill()
        return [*events, ending_event(gang.attempt, ending, self.now())]

    def _death(self, gang: Gang, rank: Rank, error: Exception) -> Ending:
        log = f"its output is in {told_log(gang.order, rank.number)}"
        text = f"{gang.told(rank)}: {told_by_ray(error)}; {log}"
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return failure(Cause.HOST_OUT_OF_MEMORY, text)
        if self._nodes.get(rank.node_id) is None:
            return failure(Cause.NODE_LOST, f"{rank.node_id} is gone; {log}")
        return failure(Cause.WORKER_LOST if gang.is_running else Cause.START_FAILED, text)

    def _read(self) -> list[Event]:
        try:
            return self._events(self._reader.read())
        except ray.exceptions.RayError as error:
            doom = failure(Cause.WORKER_LOST, f"the inbox of reports died: {told_by_ray(error)}")
            for attempt in tuple(self._gangs):
                self._kill(attempt, doom)  # what they report now would be lost
            self._reader.open()
            return []

    def _said(self) -> list[Event]:
        try:
            return self._events(self._reader.take())
        except ray.exceptions.RayError:
            return []  # the poll finds the same, and ends every gang

    def _events(self, reports: Sequence[Report]) -> list[Event]:
        for report in reports:
            self._hangs.note(report)
        now = self.now()  # an attempt that has ended says no more
        told = [report for report in reports if report.attempt in self._gangs]
        if any(r.checkpoint and self._gangs[r.attempt].order.spec.warm for r in told):
            self._beat.reported(now)
        return [report.event(now) for report in told]


def _uptime() -> Seconds:
    """Seconds that no change of the date moves; where it can be had, sleep is counted too."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
