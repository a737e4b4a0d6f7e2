"""The loop that joins scheduler, cluster and store; the same for Ray and for a simulation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from orchestrator.messages import Action, Event, StartGang, TimePassed
from orchestrator.ports import Clock, Cluster, Store
from orchestrator.schedule.scheduler import Scheduler

__all__ = ["drive"]


def drive(
    scheduler: Scheduler,
    cluster: Cluster,
    store: Store,
    clock: Clock,
    *,
    observe: Callable[[Event], None] | None = None,
    keep_alive: bool | Callable[[], bool] = False,
) -> int:
    """Run until every run is terminal and the inbox is empty, or the driver is asked to leave.

    First the journal is replayed, then what a dead driver left behind is closed; after that every
    event is durable before anything follows from it: append, handle, publish, apply.

    Args:
        scheduler: A fresh one.
        cluster: Where gangs run; it announces its nodes by itself.
        store: The journal, the published rows and the inbox.
        clock: Stamps what the driver itself reports.
        observe: Called with every event that is not fenced off, volatile ones included, after
            its effects are published.
        keep_alive: Go on when idle; a function is asked each time.

    Returns:
        The number of events handled, without those replayed.
    """
    for event in store.replay():
        scheduler.handle(event)
    store.publish(scheduler.drain_changes())
    loop = _Loop(scheduler, cluster, store, observe or _unobserved)
    loop.take(scheduler.orphans(at=clock.now()))
    due = scheduler.next_wakeup
    while True:
        while asked := store.receive(clock.now()):
            loop.follow(asked)  # in the journal already
            due = scheduler.next_wakeup
        if scheduler.is_drained:
            return loop.num_events
        if scheduler.is_idle and not (keep_alive() if callable(keep_alive) else keep_alive):
            return loop.num_events
        loop.take(cluster.wait(until=due))
        due, now = scheduler.next_wakeup, clock.now()
        if due is not None and due <= now:
            loop.take((TimePassed(at=now),))
            due = scheduler.next_wakeup


@dataclass(slots=True)
class _Loop:
    scheduler: Scheduler
    cluster: Cluster
    store: Store
    observe: Callable[[Event], None]
    num_events: int = 0

    def take(self, events: Iterable[Event]) -> None:
        """Record events one by one and follow each that is not fenced off.

        Raises:
            TransitionError: an event is impossible; it is not recorded, so that a restart goes on.
        """
        for event in events:
            self.scheduler.demand_row(event)
            if self.store.append(event):
                self._follow(event)

    def follow(self, events: Iterable[Event]) -> None:
        """Do what follows from events that were recorded together: publish once, then act."""
        together = tuple(events)
        actions = [action for event in together for action in self.scheduler.handle(event)]
        changed = self.scheduler.drain_changes()
        if changed:
            self.store.publish(changed)
        self._carry_out(actions)
        self.num_events += len(together)
        for event in together:
            self.observe(event)

    def _follow(self, event: Event) -> None:
        actions: tuple[Action, ...] = self.scheduler.handle(event)
        changed = self.scheduler.drain_changes()
        if changed:
            self.store.publish(changed)
        self._carry_out(actions)
        self.num_events += 1
        self.observe(event)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, StartGang) and "auto" in action.spec.settings.options:
                known = self.store.findings(action.spec.settings.model)
                self.cluster.apply(replace(action, findings=tuple(known)))
            else:
                self.cluster.apply(action)


def _unobserved(_: Event) -> None:
    pass
