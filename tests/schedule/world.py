"""A world that only believes what it is told to do, and checks every action against the laws."""

from dataclasses import dataclass, field

from orchestrator.messages import (
    Action,
    AskNodes,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    KillGang,
    NodeChanged,
    NodeJoined,
    NodeLost,
    PreemptGang,
    ProgressReported,
    StartGang,
)
from orchestrator.schedule.dependencies import predecessors
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import (
    AttemptId,
    Cause,
    CheckpointRef,
    Node,
    NodeId,
    Progress,
    RunId,
    RunState,
    RunStatus,
    Share,
)
from tests.schedule.laws import may_be_on

__all__ = ["Gang", "World"]


@dataclass(slots=True)
class Gang:
    """A live attempt."""

    start: StartGang
    shares: list[Share]
    epoch: int = 0
    is_up: bool = False
    is_asked: bool = False  # to leave, or killed


@dataclass(slots=True)
class World:
    """Hands events to a scheduler and carries out its actions, checking each."""

    scheduler: Scheduler
    journal: list[Event] = field(default_factory=list)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    gangs: dict[AttemptId, Gang] = field(default_factory=dict)
    over: list[Event] = field(default_factory=list)  # last words of attempts that are over
    attempts: dict[RunId, int] = field(default_factory=dict)
    refs: dict[RunId, list[CheckpointRef]] = field(default_factory=dict)
    ended: dict[RunId, RunStatus] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)  # nodes wanted, by type
    now: float = 0.0

    def tell(self, event: Event) -> tuple[Action, ...]:
        """One event in; the actions that follow are checked and carried out."""
        self.journal.append(event)
        self._happen(event)
        actions = self.scheduler.handle(event)
        for action in actions:
            self._obey(action)
        self.check()
        return actions

    def progress(self, attempt: AttemptId) -> ProgressReported:
        """The next epoch of a gang, with its checkpoint."""
        gang = self.gangs[attempt]
        epoch = gang.epoch + 1
        epochs = gang.start.spec.settings.epochs
        return ProgressReported(
            at=self.now,
            attempt=attempt,
            progress=Progress(epoch=epoch, epochs=epochs, metrics={}, seconds=1.0, num_images=1),
            checkpoint=CheckpointRef(
                attempt=attempt, epoch=epoch, path=f"/{attempt}/{epoch}", sha256="", num_bytes=1
            ),
        )

    def check(self) -> None:
        """What holds after every event."""
        self.scheduler.check()
        self._check_cards()
        for status in self.scheduler.drain_changes():
            assert status == self.scheduler.status(status.run_id)
        for status in self.scheduler.statuses():
            self._check_status(status)
        holding = [s.run_id for s in self.scheduler.statuses() if s.state.holds_gpus]
        silent = set(holding) - {attempt.run_id for attempt in self.gangs}
        assert not silent, f"{silent} hold cards and nothing runs"

    def _happen(self, event: Event) -> None:
        match event:
            case NodeJoined(node=node) | NodeChanged(node=node):
                self.nodes[node.node_id] = node
            case NodeLost(node_id=node_id):
                del self.nodes[node_id]
                for gang in self.gangs.values():
                    gang.shares = [s for s in gang.shares if s.node_id != node_id]
            case GangStarted(attempt=attempt) if attempt in self.gangs:
                self.gangs[attempt].is_up = True
            case ProgressReported(attempt=attempt, checkpoint=ref) if attempt in self.gangs:
                self.gangs[attempt].epoch = event.progress.epoch
                assert ref is not None
                if self._is_held(attempt):
                    self.refs.setdefault(attempt.run_id, []).insert(0, ref)
            case GangYielded() | GangFinished() | GangFailed() if event.attempt in self.gangs:
                del self.gangs[event.attempt]
                self.over.append(event)

    def _is_held(self, attempt: AttemptId) -> bool:
        """False when all nodes of a silent gang were lost and it was taken for gone."""
        status = self.scheduler.status(attempt.run_id)
        return status.state.holds_gpus and status.attempt == attempt.number

    def _obey(self, action: Action) -> None:
        match action:
            case StartGang():
                self._start(action)
            case PreemptGang() | KillGang():
                assert action.attempt in self.gangs, f"{action} for a gang that is not there"
                self.gangs[action.attempt].is_asked = True
            case AskNodes(counts=counts):
                self.asked = dict(counts)

    def _start(self, start: StartGang) -> None:
        run_id, number = start.attempt.run_id, start.attempt.number
        assert number == self.attempts.get(run_id, 0) + 1, "attempts are counted one by one"
        for attempt in [attempt for attempt in self.gangs if attempt.run_id == run_id]:
            # All its nodes are lost and the world was silent: it may be taken for gone.
            assert not self.gangs.pop(attempt).shares, "one attempt at a time"
            self.over.append(GangFailed(at=0.0, attempt=attempt, cause=Cause.WORKER_LOST))
        self.attempts[run_id] = number
        width = start.placement.world_size
        assert width == start.batch.world_size, "a gang is whole"
        least = start.spec.min_gpus or start.spec.num_gpus
        assert least <= width <= start.spec.num_gpus, "a gang is as wide as it may be"
        assert all(s.node_id in self.nodes for s in start.placement.shares), "on a lost node"
        assert start.batch.effective_batch == start.spec.effective_batch
        taken = sum(sum(start.batch.pieces_of(n)) for n in range(start.batch.world_size))
        assert taken == start.spec.effective_batch
        for before in predecessors(start.spec):
            state = self.scheduler.status(before).state
            assert state is RunState.SUCCEEDED, f"{run_id} starts before {before}, {state}"
        self._check_weights(start)
        assert list(start.checkpoints) == self.refs.get(run_id, []), "all of them, newest first"
        epoch = start.checkpoints[0].epoch if start.checkpoints else 0
        self.gangs[start.attempt] = Gang(start, list(start.placement.shares), epoch=epoch)
        self._check_new(start)

    def _check_weights(self, start: StartGang) -> None:
        source = start.spec.weights_from
        if source is None or not self.refs.get(source):
            assert start.weights is None
        else:  # no epoch of this world is the best: the newest counts
            assert start.weights == self.refs[source][0]

    def _check_new(self, start: StartGang) -> None:
        """A new share leaves the bytes of foreign processes alone, and whole cards to one run."""
        for share in start.placement.shares:
            assert may_be_on(start.spec, self.nodes[share.node_id]), f"{share}: other labels"
            if share.card is None:
                continue
            node = self.nodes[share.node_id]
            card = next(card for card in node.cards if card.index == share.card)
            users = self._users(share.node_id, share.card)
            held = sum(user.memory_bytes for _, user in users)
            assert held <= card.memory_bytes - card.foreign_bytes, f"{share} has no room"
            is_whole = [gang.start.spec.memory_bytes is None for gang, _ in users]
            assert len(users) == 1 or not any(is_whole), f"{share} shares a whole card"

    def _users(self, node_id: NodeId, card: int) -> list[tuple[Gang, Share]]:
        return [
            (gang, share)
            for gang in self.gangs.values()
            for share in gang.shares
            if (share.node_id, share.card) == (node_id, card)
        ]

    def _check_cards(self) -> None:
        for node in self.nodes.values():
            for card in node.cards:
                users = self._users(node.node_id, card.index)
                assert sum(s.memory_bytes for _, s in users) <= card.memory_bytes, "given twice"
            here = [
                share
                for gang in self.gangs.values()
                for share in gang.shares
                if share.node_id == node.node_id
            ]
            cpus = sum(share.num_cpus for share in here)
            assert cpus <= node.num_cpus + 1e-9, "CPUs are given twice"
            ram = sum(share.host_bytes for share in here)
            assert not node.host_bytes or ram <= node.host_bytes, "RAM is given twice"

    def _check_status(self, status: RunStatus) -> None:
        if status.state is RunState.PENDING:
            assert status.reason is not None, "a run waits without a reason"
        else:
            assert status.reason is None
        before = self.ended.pop(status.run_id, None)
        if before is not None and before.state is RunState.SUCCEEDED:
            assert status.state is RunState.SUCCEEDED, "a success is final"
        if status.state.is_terminal:
            self.ended[status.run_id] = status
