"""The Cluster on Ray: gangs become actors on the cards that were chosen, refs become events."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.endings import Ending, ending_event, failure, told_by_ray
from orchestrator.cluster.groups import CardGroups
from orchestrator.cluster.hangs import HangWatch
from orchestrator.cluster.host_shares import HostShares
from orchestrator.cluster.inbox import InboxReader, Report
from orchestrator.cluster.nodes import RayNodes
from orchestrator.cluster.pulse import Patience
from orchestrator.cluster.worker import Started, Worker, attempt_log
from orchestrator.messages import Action, Event, GangStarted, KillGang, PreemptGang, StartGang
from orchestrator.ports import Parts
from orchestrator.types import (
    AttemptId,
    Card,
    Cause,
    NodeId,
    Outcome,
    Seconds,
    Share,
    StopMode,
)

__all__ = ["RayCluster"]

_HEARTBEAT: Seconds = 0.5  # the driver looks at what people asked for at least this often


@dataclass(slots=True, kw_only=True)
class _Gang:
    order: StartGang
    share: Share
    card: Card | None
    actor: Any = None
    is_running: bool = False
    pid: int = 0
    doom: Ending | None = None  # how it ends once its process is gone, when we ended it


class RayCluster:
    """Implements Cluster and Clock on a Ray that `cluster.session` has connected.

    One waited ref a gang and phase (start, fit), one for the inbox, one a placement group that is
    being made and one a node whose cards are being listed; `ray.wait` on all of them is the only
    blocking call. Ray restarts and retries nothing: that is the scheduler's.

    Args:
        parts: Handed to every worker.
        list_cards: Lists the real cards of the host it runs on.
        local_cards: The cards of this machine when the Ray is our own; None for a Ray that was
            joined, whose nodes are asked.
        patience: How long a worker may be silent before it counts as hung.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        list_cards: Callable[[], Sequence[Card]],
        local_cards: Sequence[Card] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._zero = time.time() - _uptime()
        self._parts = parts
        self._nodes = RayNodes(list_cards, local_cards)
        self._groups = CardGroups()
        self._host_shares = HostShares()
        self._hangs = HangWatch(patience or Patience())
        self._reader = InboxReader(ray.get_runtime_context().get_node_id())
        self._worker = ray.remote(Worker)  # made once: each is sent to Ray's control process
        self._gangs: dict[AttemptId, _Gang] = {}
        self._refs: dict[Any, AttemptId] = {}
        self._early: deque[Event] = deque()  # known before anything had to be waited for

    def now(self) -> Seconds:
        """Seconds since the Unix epoch; a clock that is set while we run changes nothing."""
        return self._zero + _uptime()

    def apply(self, action: Action) -> None:
        """Begin to carry out an action; what comes of it is an event."""
        match action:
            case StartGang():
                self._start(action)
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
        self._nodes.held = {gang.share.node_id for gang in self._gangs.values()}
        events = [*self._nodes.compare(self.now()), *self._early]
        self._early.clear()
        timeout = _HEARTBEAT if until is None else min(_HEARTBEAT, until - self.now())
        for attempt, doom in self._hangs.overdue():
            self._kill(attempt, doom)
        for ref in self._ready(0.0 if events else max(0.0, timeout)):
            events += self._resolve(ref)
        waiting = {gang.share.node_id for gang in self._gangs.values() if gang.actor is None}
        self._groups.remove_idle(self.now(), waiting)
        return events

    def close(self) -> None:
        """End every gang, and give back what was taken from Ray."""
        for gang in self._gangs.values():
            if gang.actor is not None:
                ray.kill(gang.actor)
        self._gangs.clear()
        self._refs.clear()
        self._groups.close()
        self._host_shares.close()
        self._reader.close()

    def _ready(self, timeout: Seconds) -> list[Any]:
        refs = [self._reader.polled, *self._groups.waited, *self._nodes.waited, *self._refs]
        refs += self._hangs.waited
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if ready:  # whatever else is ready comes along
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ready)

    def _resolve(self, ref: Any) -> list[Event]:
        if ref == self._reader.polled:
            return self._read()
        if ref in self._groups.waited:
            node_id = self._groups.resolve(ref)
            return [] if node_id is None else self._launch_waiting(node_id)
        if ref in self._nodes.waited:
            return self._nodes.resolve(ref, self.now())
        for hung, doom in self._hangs.resolve(ref):
            self._kill(hung, doom)
        attempt = self._refs.pop(ref, None)
        if attempt is None:
            return []  # ended by something that was ready together with it
        return self._advance(attempt, ref)

    def _advance(self, attempt: AttemptId, ref: Any) -> list[Event]:
        gang = self._gangs[attempt]
        try:
            answer: Started | Ending = ray.get(ref)
        except ray.exceptions.RayError as error:
            events = self._nodes.compare(self.now(), is_due=True)
            return [*events, *self._end(attempt, self._death(gang, error))]
        if isinstance(answer, Ending):
            return self._end(attempt, answer)
        wrong = answer.is_elsewhere(gang.card)
        if wrong:
            return self._end(attempt, failure(Cause.START_FAILED, wrong))
        gang.is_running = True
        gang.pid = answer.pid
        ray_node = self._nodes.ray_id(gang.share.node_id)
        self._hangs.begin(gang.order, gang.actor, gang.pid, ray_node)
        self._refs[gang.actor.fit.remote()] = attempt
        return [GangStarted(at=self.now(), attempt=attempt, pids=(answer.pid,))]

    def _start(self, order: StartGang) -> None:
        share = order.placement.shares[0]
        node = self._nodes.get(share.node_id)
        card = next((c for c in node.cards if c.index == share.card), None) if node else None
        gang = _Gang(order=order, share=share, card=card)
        self._gangs[order.attempt] = gang
        refusal = None
        if order.placement.world_size > 1:
            text = "a gang of several GPUs cannot be started on Ray by this version"
            refusal = failure(Cause.START_FAILED, text)
        elif node is None:
            refusal = failure(Cause.NODE_LOST, f"{share.node_id} is not in the cluster")
        elif share.card is not None and card is None:
            text = f"{share.node_id} has no card {share.card}"
            refusal = failure(Cause.START_FAILED, text)
        if refusal or node is None:
            self._early += self._end(order.attempt, refusal or Ending())
        elif card is None:
            place = NodeAffinitySchedulingStrategy(self._nodes.ray_id(share.node_id), soft=False)
            counted = {"num_cpus": share.num_cpus, "memory": share.host_bytes or None}
            self._launch(gang, {**counted, "num_gpus": 0, "scheduling_strategy": place})
        elif self._groups.prepare(
            node, self._nodes.ray_id(share.node_id), self._nodes.num_gpus(share.node_id)
        ):
            self._early += self._launch_waiting(share.node_id)

    def _launch_waiting(self, node_id: NodeId) -> list[Event]:
        """Launch what waits for the node's placement group, which is there or failed."""
        events: list[Event] = []
        for attempt, gang in tuple(self._gangs.items()):
            if gang.actor is None and gang.card is not None and gang.share.node_id == node_id:
                if self._groups.has(node_id, gang.card.index):
                    self._host_shares.take(attempt, gang.share, self._nodes.ray_id(node_id))
                    self._launch(gang, self._groups.options(attempt, gang.share, gang.card))
                else:
                    text = f"Ray holds no bundle for card {gang.card.index} of {node_id}"
                    events += self._end(attempt, failure(Cause.START_FAILED, text))
        return events

    def _launch(self, gang: _Gang, options: dict[str, Any]) -> None:
        actor = self._worker.options(
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,  # a request to stop comes in while `fit` runs
            **options,
        )
        cpus = gang.share.num_cpus or self._threads(gang, float(options["num_gpus"]))
        gang.actor = actor.remote(gang.order, self._parts, self._reader.handle, gang.card, cpus)
        self._refs[gang.actor.start.remote()] = gang.order.attempt

    def _threads(self, gang: _Gang, fraction: float) -> float:
        """CPUs of a worker whose CPUs nobody counted: its part of its card's part of the node."""
        node = self._nodes.get(gang.share.node_id)
        return max(1.0, node.num_cpus / max(1, len(node.cards)) * fraction) if node else 1.0

    def _preempt(self, attempt: AttemptId, mode: StopMode) -> None:
        gang = self._gangs.get(attempt)
        if gang is None or gang.doom is not None:
            return
        if gang.is_running:
            gang.actor.ask_stop.remote(mode)
        else:  # nothing was trained yet, so nothing has to be saved
            self._kill(attempt, Ending(outcome=Outcome.YIELDED))

    def _kill(self, attempt: AttemptId, doom: Ending) -> None:
        gang = self._gangs.get(attempt)
        if gang is None or gang.doom is not None:
            return
        gang.doom = doom
        if gang.actor is None:
            self._early += self._end(attempt, doom)
        else:
            ray.kill(gang.actor)  # its ref answers with the death

    def _end(self, attempt: AttemptId, ending: Ending) -> list[Event]:
        """Everything that the attempt still said, then its end."""
        events = self._said() if self._gangs[attempt].is_running else []
        gang = self._gangs.pop(attempt)
        self._groups.give_back(attempt)
        self._host_shares.give_back(attempt)
        self._hangs.end(attempt)
        if gang.actor is not None:
            ray.kill(gang.actor)
        return [*events, ending_event(attempt, ending, self.now())]

    def _death(self, gang: _Gang, error: Exception) -> Ending:
        if gang.doom is not None:
            return gang.doom
        log = f"its output is in {attempt_log(gang.order)}"
        text = f"worker process {gang.pid or '(not yet up)'}: {told_by_ray(error)}; {log}"
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return failure(Cause.HOST_OUT_OF_MEMORY, text)
        if self._nodes.get(gang.share.node_id) is None:
            return failure(Cause.NODE_LOST, f"{gang.share.node_id} is gone; {log}")
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
        return [report.event(now) for report in reports if report.attempt in self._gangs]


def _uptime() -> Seconds:
    """Seconds that no change of the date moves; where it can be had, sleep is counted too."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
