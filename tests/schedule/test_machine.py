"""Any legal sequence of events keeps every law of the scheduler."""

from dataclasses import replace

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchestrator.messages import (
    CancelRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    NodeChanged,
    NodeJoined,
    NodeLost,
    PreemptGang,
    PriorityChanged,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
    TimePassed,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import AttemptId, Cause, NodeId, RunId
from tests.schedule.laws import check_first_in_line
from tests.schedule.world import World
from tests.strategies import KINDS, LABELS, make_node, nodes, specs

START_TIMEOUT, GRACE, HOLD = 300.0, 60.0, 600.0
NODE_NAMES = ("a", "b", "c", "d")
MAX_RUNS = 8


class Machine(RuleBasedStateMachine):
    is_preempting = True

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.scheduler())
        self.num_runs = 0
        self.is_broken = False  # an error was raised; what follows would only hide it

    def scheduler(self) -> Scheduler:
        return Scheduler(
            preempt=self.is_preempting,
            start_timeout_seconds=START_TIMEOUT,
            yield_grace_seconds=GRACE,
            hold_after_seconds=HOLD,
        )

    def tell(self, event: Event) -> None:
        self.is_broken = True
        self.obey(event)
        check_first_in_line(self.world.scheduler)
        self.is_broken = False

    def obey(self, event: Event) -> None:
        self.world.tell(event)

    def gang(self, data: st.DataObject, **wanted: bool) -> AttemptId:
        fitting = [
            attempt
            for attempt, gang in self.world.gangs.items()
            if all(getattr(gang, name) == value for name, value in wanted.items())
        ]
        return data.draw(st.sampled_from(fitting))

    def run_id(self, data: st.DataObject) -> RunId:
        return RunId(f"r{data.draw(st.integers(1, self.num_runs))}")

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.join(data)
        self.submit(data)

    @rule(data=st.data())
    @precondition(lambda self: len(self.world.nodes) < len(NODE_NAMES))
    def join(self, data: st.DataObject) -> None:
        free = [name for name in NODE_NAMES if NodeId(name) not in self.world.nodes]
        self.tell(NodeJoined(at=self.world.now, node=data.draw(nodes(free[0]))))

    @rule(data=st.data())
    @precondition(lambda self: self.num_runs < MAX_RUNS)
    def submit(self, data: st.DataObject) -> None:
        self.num_runs += 1
        names = [f"r{number}" for number in range(self.num_runs)]  # r0 is never submitted
        spec = data.draw(specs(f"r{self.num_runs}", after=names))
        self.tell(RunSubmitted(at=self.world.now, spec=spec))

    @rule(data=st.data())
    @precondition(lambda self: self.world.nodes)
    def lose(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(list(self.world.nodes)))
        self.tell(NodeLost(at=self.world.now, node_id=node_id))

    @rule(data=st.data(), foreign_bytes=st.sampled_from((0, 2**30, 2**32)))
    @precondition(lambda self: self.world.nodes)
    def foreigners_come_and_go(self, data: st.DataObject, foreign_bytes: int) -> None:
        node = self.world.nodes[data.draw(st.sampled_from(list(self.world.nodes)))]
        cards = tuple(replace(card, foreign_bytes=foreign_bytes) for card in node.cards)
        self.tell(NodeChanged(at=self.world.now, node=replace(node, cards=cards)))

    @rule(data=st.data(), labels=LABELS)
    @precondition(lambda self: self.world.nodes)
    def labels_change(self, data: st.DataObject, labels: dict[str, str]) -> None:
        node = self.world.nodes[data.draw(st.sampled_from(list(self.world.nodes)))]
        self.tell(NodeChanged(at=self.world.now, node=replace(node, labels=labels)))

    @rule(data=st.data())
    @precondition(lambda self: any(not g.is_up for g in self.world.gangs.values()))
    def start(self, data: st.DataObject) -> None:
        self.tell(GangStarted(at=self.world.now, attempt=self.gang(data, is_up=False)))

    @rule(data=st.data())
    @precondition(lambda self: any(g.is_up for g in self.world.gangs.values()))
    def complete_an_epoch(self, data: st.DataObject) -> None:
        attempt = self.gang(data, is_up=True)
        gang = self.world.gangs[attempt]
        if gang.epoch < gang.start.spec.settings.epochs:
            self.tell(self.world.progress(attempt))
        else:
            self.tell(GangFinished(at=self.world.now, attempt=attempt))

    @rule(data=st.data())
    @precondition(lambda self: any(g.is_asked for g in self.world.gangs.values()))
    def leave(self, data: st.DataObject) -> None:
        attempt = self.gang(data, is_asked=True)
        if self.world.gangs[attempt].is_up and data.draw(st.booleans()):
            self.tell(GangYielded(at=self.world.now, attempt=attempt))
        else:
            self.tell(GangFailed(at=self.world.now, attempt=attempt, cause=Cause.KILLED))

    @rule(data=st.data(), cause=st.sampled_from(Cause))
    @precondition(lambda self: self.world.gangs)
    def fail(self, data: st.DataObject, cause: Cause) -> None:
        attempt = self.gang(data)
        self.tell(GangFailed(at=self.world.now, attempt=attempt, cause=cause, detail="planted"))

    @rule(data=st.data(), now=st.booleans())
    @precondition(lambda self: self.num_runs)
    def cancel(self, data: st.DataObject, now: bool) -> None:
        self.tell(CancelRequested(at=self.world.now, run_id=self.run_id(data), now=now))

    @rule(data=st.data())
    @precondition(lambda self: self.num_runs)
    def resume(self, data: st.DataObject) -> None:
        self.tell(ResumeRequested(at=self.world.now, run_id=self.run_id(data)))

    @rule(data=st.data(), priority=st.sampled_from((0, 50, 100)))
    @precondition(lambda self: self.num_runs)
    def reprioritize(self, data: st.DataObject, priority: int) -> None:
        run_id = self.run_id(data)
        self.tell(PriorityChanged(at=self.world.now, run_id=run_id, priority=priority))

    @rule(data=st.data(), to_end=st.booleans(), is_near=st.booleans())
    @precondition(lambda self: self.num_runs)
    def move(self, data: st.DataObject, to_end: bool, is_near: bool) -> None:
        run_id, other = self.run_id(data), self.run_id(data) if is_near else None
        self.tell(RunMoved(at=self.world.now, run_id=run_id, before=other, to_end=to_end))

    @rule(data=st.data())
    @precondition(lambda self: self.world.over)
    def an_attempt_that_is_over_speaks_again(self, data: st.DataObject) -> None:
        event = replace(data.draw(st.sampled_from(self.world.over)), at=self.world.now)
        before = self.world.scheduler.statuses()
        self.world.journal.append(event)
        assert self.world.scheduler.handle(event) == ()
        assert self.world.scheduler.statuses() == before

    @rule(seconds=st.sampled_from((1.0, 59.0, 61.0, 301.0, 601.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        due = self.world.scheduler.next_wakeup
        if due is not None and due <= self.world.now:
            self.tell(TimePassed(at=self.world.now))

    def teardown(self) -> None:
        if self.is_broken:
            return
        self.replay_is_equal()
        self.everything_ends_when_faults_stop()

    def replay_is_equal(self) -> None:
        again = self.scheduler()
        for event in self.world.journal:
            again.handle(event)
        assert again.statuses() == self.world.scheduler.statuses()
        assert again.next_wakeup == self.world.scheduler.next_wakeup

    def everything_ends_when_faults_stop(self) -> None:
        for node in LARGE:
            self.tell(NodeJoined(at=self.world.now, node=node))
        for _ in range(2_000):
            if self.is_done():
                break
            if self.world.gangs:
                self.answer(next(iter(self.world.gangs)))
            else:
                due = self.world.scheduler.next_wakeup
                assert due is not None, "nothing runs, nothing is due, and work is unfinished"
                self.world.now = max(self.world.now, due)
                self.tell(TimePassed(at=self.world.now))
        else:
            raise AssertionError("the work does not come to an end")
        assert not any(gang.shares for gang in self.world.gangs.values())

    def is_done(self) -> bool:
        """All runs are terminal, but for those that no card can ever hold, and what follows."""
        statuses = {status.run_id: status for status in self.world.scheduler.statuses()}
        hopeless = {
            r for r, s in statuses.items() if s.reason is not None and s.reason.needs_person
        }
        for run_id, record in self.world.scheduler._life.runs.items():  # predecessors come first
            if hopeless & set(record.waits_for):
                hopeless.add(run_id)
        return all(s.state.is_terminal or r in hopeless for r, s in statuses.items())

    def answer(self, attempt: AttemptId) -> None:
        """What a healthy gang does next."""
        gang = self.world.gangs[attempt]
        if gang.is_asked:
            self.tell(GangFailed(at=self.world.now, attempt=attempt, cause=Cause.KILLED))
        elif not gang.is_up:
            self.tell(GangStarted(at=self.world.now, attempt=attempt))
        elif gang.epoch < gang.start.spec.settings.epochs:
            self.tell(self.world.progress(attempt))
        else:
            self.tell(GangFinished(at=self.world.now, attempt=attempt))


class MachineWithoutPreemption(Machine):
    is_preempting = False

    def obey(self, event: Event) -> None:
        actions = self.world.tell(event)
        polite = [a for a in actions if isinstance(a, PreemptGang)]
        for action in polite:
            status = self.world.scheduler.status(action.attempt.run_id)
            assert not status.detail.startswith("makes room"), "preemption is off"


# Whatever may have been asked for fits here at some time.
LARGE = tuple(
    make_node(
        f"large-{zone}",
        *(kind for kind in KINDS for _ in range(6)),
        num_cpus=64.0,
        labels={"zone": zone},
    )
    for zone in ("a", "b")
)

PROFILE = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestScheduler = Machine.TestCase
TestScheduler.settings = PROFILE
TestSchedulerWithoutPreemption = MachineWithoutPreemption.TestCase
TestSchedulerWithoutPreemption.settings = settings(PROFILE, max_examples=20)
