"""The scheduler: events in, actions out; its state is a fold over the events."""

from collections.abc import Mapping

from orchestrator.messages import (
    Action,
    AttemptEvent,
    DrainEnded,
    Event,
    GangFailed,
    NodeLost,
    NodeTypesOffered,
    PolicyChanged,
)
from orchestrator.schedule import gangs, runs, scaling
from orchestrator.schedule.check import check
from orchestrator.schedule.clock import pass_time
from orchestrator.schedule.dispatch import Evict, Start
from orchestrator.schedule.explain import explain, pending_reason
from orchestrator.schedule.follows import FOLLOWS
from orchestrator.schedule.forecast import Forecast, Score
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.past import Past
from orchestrator.schedule.placing import Placing
from orchestrator.schedule.policy import Policy
from orchestrator.schedule.rearrange import Knowledge, Rearrange
from orchestrator.schedule.status import status_of
from orchestrator.types import Cause, Explanation, Node, RunId, RunState, RunStatus, Seconds

__all__ = ["Scheduler"]


class Scheduler:
    """Decides who runs where and when. Changed by `handle` only.

    Equal events in equal order lead to equal states and equal actions: there is no clock, no
    chance and no input other than events.

    Args:
        preempt: Whether a run of higher priority may ask gangs of lower priority to leave.
        start_timeout_seconds: A gang that has not started after this is killed.
        yield_grace_seconds: A gang that has not left this long after it was asked to is killed,
            and killed again until the world says that it is gone.
        hold_after_seconds: A run that has waited this long is passed by nobody behind it; the
            rule is in `schedule.dispatch`.
        strict_order: Whether nobody starts before whoever is ahead of him in the queue; then no
            room is made or kept either.
        policy: Says in rounds how many cards each run shall have; without one, each run gets
            what it asks for, in the order of the queue.
        policies: Policies by the names that `PolicyChanged` gives them; any other name is that of
            the queue alone.
        knowledge: How fast runs are and what they still need, where that is known beforehand;
            by default it is learned from their epochs.
        forgets: Whether trials of sweeps that have succeeded are left to the store after a while.
        places_by_speed: Whether runs of one card go where they are worth most by measured speed,
            and runs that slow one another down are parted; otherwise to the tightest card.
    """

    def __init__(  # noqa: PLR0913 - rules that do not depend on one another
        self,
        *,
        preempt: bool = True,
        start_timeout_seconds: Seconds = 300.0,
        yield_grace_seconds: Seconds = 60.0,
        hold_after_seconds: Seconds = 600.0,
        strict_order: bool = False,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        knowledge: Knowledge | None = None,
        places_by_speed: bool = False,
        forgets: bool = True,
    ) -> None:
        self._life = Lifecycle(
            preempt=preempt,
            start_timeout_seconds=start_timeout_seconds,
            yield_grace_seconds=yield_grace_seconds,
            hold_after_seconds=hold_after_seconds,
            strict_order=strict_order,
        )
        self._past = Past(self._life.runs, self._life.changed)
        self._forgets = forgets
        if places_by_speed:
            life = self._life
            life.dispatch.finding.placing = Placing(
                runs=life.runs, ledger=life.ledger, router=life.router
            )
        self._policies = policies or {}
        self._knowledge = knowledge or Knowledge()
        self._rounds: Rearrange | None = None
        self._follow(policy)

    def _choose(self, name: str) -> None:
        policy = self._policies.get(name)
        if policy is not (None if self._rounds is None else self._rounds.policy):
            self._follow(policy)

    def _follow(self, policy: Policy | None) -> None:
        """Let a policy size runs from now on, or nobody."""
        life, before = self._life, self._rounds
        if before is not None:
            life.sizing = self._rounds = None
            before.release(life)
        if policy is not None:
            life.sizing = self._rounds = Rearrange(policy, self._knowledge)
            self._rounds.adopt(life)

    def handle(self, event: Event) -> tuple[Action, ...]:
        """Take an event in; what must be done follows.

        Raises:
            TransitionError: the event fits no row of the transition table.
        """
        if event.is_volatile:
            return ()  # it is not in the journal, so nothing may follow from it
        life = self._life
        pass_time(life, event.at)
        life.actions = []
        if not self._past.holds(event):
            FOLLOWS[type(event)](life, event)
        if self._forgets:
            self._past.take(event)
        if isinstance(event, PolicyChanged):
            self._choose(event.name)
        self._expire()
        is_partial = isinstance(event, NodeLost) and event.with_others
        if not life.is_draining and not is_partial:
            self._decide()
            if life.router.offers.brought and scaling.reopen(life):
                self._decide()
        if life.router.offers.is_used:
            life.actions += scaling.look(life, event)
        return tuple(life.actions)

    def demand_row(self, event: Event) -> None:
        """Refuse an event that the attempt under way cannot send in the run's state.

        Asked before an event is recorded: one that fits no row would stop every driver that
        replays it. Events of other attempts are left to the store's fence.

        Raises:
            TransitionError: no row of the transition table begins with it.
        """
        if not isinstance(event, AttemptEvent) or event.is_volatile:
            return
        record = self._life.runs.get(event.attempt.run_id)
        if record is None or record.attempt != event.attempt.number:
            return
        if record.state not in runs.TRANSITIONS[type(event)]:
            what = f"{type(event).__name__} came while {record.state}; it is not recorded"
            raise record.bug(what, event.at)

    def _expire(self) -> None:
        life = self._life
        due = life.timers.next
        if due is not None and due <= life.now:
            for record in life.timers.due(life.now):
                gangs.expired(life, record)
        tried = life.health.next
        if tried is not None and tried <= life.now:
            life.health.try_again(life.now)

    def _decide(self) -> None:
        life = self._life
        if self._rounds is not None:
            self._rounds.look(life)
        if not life.dispatch.is_due:
            return
        for decision in life.dispatch.decide(life.now):
            match decision:
                case Start(record, placement):
                    life.start(record, placement)
                case Evict(record, outranked_by):
                    life.evict(record, outranked_by)

    @property
    def next_wakeup(self) -> Seconds | None:
        """The moment at which `TimePassed` is wanted, if nothing happens before."""
        life, rounds = self._life, self._rounds
        due, tried, look_at = life.timers.next, life.health.next, life.router.offers.look_at
        if tried is not None and (due is None or tried < due):
            due = tried
        if look_at is not None and (due is None or look_at < due):
            due = look_at
        if rounds is not None and (wakeup := rounds.wakeup) is not None:
            return wakeup if due is None else min(due, wakeup)
        return due

    @property
    def is_idle(self) -> bool:
        """True when every submitted run is terminal."""
        return self._life.num_unfinished == 0

    @property
    def is_drained(self) -> bool:
        """True when the driver was asked to leave and every gang has left."""
        if not self._life.is_draining:
            return False
        return not any(record.state.holds_gpus for record in self._life.runs.values())

    def orphans(self, at: Seconds) -> tuple[Event, ...]:
        """What a driver that starts must assume: its predecessor's gangs and nodes are gone.

        Gangs share the fate of the driver that started them, and the cluster announces its
        nodes anew. The nodes go first, so that nothing is started on one that may be gone. They
        went with that driver, so the time without a driver is no training time.
        """
        gone_at = min(at, self._life.now)
        ids = [node.node_id for node in self.nodes()]
        nodes = [
            NodeLost(at=gone_at, node_id=node_id, with_others=node_id != ids[-1]) for node_id in ids
        ]
        orphaned = [
            GangFailed(
                at=at,
                attempt=record.attempt_id,
                cause=Cause.DRIVER_LOST,
                detail="the driver was restarted",
            )
            for record in self._life.runs.values()
            if record.state.holds_gpus
        ]
        drained = (DrainEnded(at=at),) if self._life.is_draining else ()
        offered = self._life.router.offers.node_types
        gone = (NodeTypesOffered(at=gone_at, node_types=()),) if offered else ()
        return (*gone, *nodes, *orphaned, *drained)

    def drain_changes(self) -> tuple[RunStatus, ...]:
        """Statuses that changed since the last call, in the order in which they first changed."""
        changed = self._life.changed
        if not changed:
            return ()
        statuses = tuple([self.status(run_id) for run_id in changed])
        changed.clear()
        return statuses

    def knows(self, run_id: RunId) -> bool:
        """False of a run that was never submitted, or is left to the store."""
        return run_id in self._life.runs

    def status(self, run_id: RunId) -> RunStatus:
        """The status of a run; KeyError when there is no such run."""
        record = self._life.runs[run_id]
        if record.state is not RunState.PENDING:
            return status_of(record, None)
        return status_of(record, pending_reason(record, self._life.dispatch))

    def statuses(self) -> tuple[RunStatus, ...]:
        """All statuses, in the order of submission."""
        return tuple(self.status(run_id) for run_id in self._life.runs)

    def explain(self, run_id: RunId, at: Seconds) -> Explanation:
        """Why a run is where it is; KeyError when there is no such run."""
        return explain(self._life.runs[run_id], self._life.dispatch, at)

    def forecast(self, run_id: RunId) -> Forecast | None:
        """Time that a run still needs once it runs; None while nothing is known of its kind."""
        return self._life.forecasts.left(self._life.runs[run_id])

    @property
    def score(self) -> Score:
        """How good the forecasts of runs that have succeeded were."""
        return self._life.forecasts.score

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are known, in the order in which they joined."""
        return tuple(room.node for room in self._life.ledger.nodes.values())

    def check(self) -> None:
        """Check every law that holds between events; for tests and simulations.

        Raises:
            AssertionError: a law is broken.
        """
        check(self._life)
