"""What drills on a real Ray share: gangs of the fake trainer and waiting for their ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.cluster.ray import RayCluster
from orchestrator.messages import (
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    NodeJoined,
    StartGang,
)
from orchestrator.plan.batch import plan_batch
from orchestrator.types import (
    AttemptId,
    CheckpointRef,
    Node,
    Placement,
    RunId,
    RunSpec,
    Share,
    TrainSettings,
)

__all__ = ["Drill"]

LIMIT_SECONDS = 60.0


class Drill:
    """One cluster, the node it announced, and everything it said."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.seen: list[Event] = []
        self.wait(lambda: any(isinstance(event, NodeJoined) for event in self.seen))

    @property
    def node(self) -> Node:
        return next(event.node for event in self.seen if isinstance(event, NodeJoined))

    def wait(self, done: Callable[[], bool]) -> None:
        limit = self.cluster.now() + LIMIT_SECONDS
        while not done():
            assert self.cluster.now() < limit, f"not in time; seen: {self.seen}"
            self.seen += self.cluster.wait(limit)

    def order(
        self,
        name: str,
        *,
        trainer: str = "fake",
        model: str = "fake",
        card: int | None = 0,
        parts_of_card: float = 1.0,
        num_cpus: float = 0.0,
        host_bytes: int = 0,
        epochs: int = 10_000,
        number: int = 1,
        options: Mapping[str, float] | None = None,
    ) -> StartGang:
        spec = RunSpec(
            run_id=RunId(f"20260101-000000-{name}-0001"),
            project="drill",
            trainer=trainer,
            settings=TrainSettings(
                model=model,
                data="none",
                imgsz=32,
                epochs=epochs,
                options={"epoch_seconds": 0.1, **(options or {})},
            ),
            effective_batch=8,
            folder=str(self.folder / name),
        )
        total = 0 if card is None else self.node.cards[card].memory_bytes
        share = Share(
            node_id=self.node.node_id,
            card=card,
            memory_bytes=int(total * parts_of_card),
            num_cpus=num_cpus,
            host_bytes=host_bytes,
        )
        return StartGang(
            attempt=AttemptId(run_id=spec.run_id, number=number),
            spec=spec,
            batch=plan_batch(spec),
            placement=Placement((share,)),
        )

    def start(self, name: str, **how: Any) -> AttemptId:
        """Start a gang of one; `how` as for `order`."""
        order = self.order(name, **how)
        self.cluster.apply(order)
        return order.attempt

    def moved(self, order: StartGang, placement: Placement) -> StartGang:
        return replace(order, placement=placement)

    def pair(
        self, name: str, *, places: Sequence[tuple[Node, int]] = (), **given: Any
    ) -> StartGang:
        """A gang of two that computes together, by default on both cards of the node."""
        order = self.order(name, trainer="together", card=None, **given)
        shares = tuple(
            Share(
                node_id=node.node_id, card=index, memory_bytes=node.cards[index].memory_bytes // 2
            )
            for node, index in (places or ((self.node, 1), (self.node, 0)))
        )
        spec = replace(order.spec, num_gpus=2)
        return replace(order, spec=spec, batch=plan_batch(spec), placement=Placement(shares))

    def resumed(self, order: StartGang, refs: Sequence[CheckpointRef]) -> StartGang:
        return replace(order, checkpoints=tuple(reversed(refs)))

    def started(self, attempt: AttemptId) -> GangStarted | None:
        return next(
            (e for e in self.seen if isinstance(e, GangStarted) and e.attempt == attempt), None
        )

    def until_started(self, attempt: AttemptId) -> GangStarted:
        self.wait(lambda: self.started(attempt) is not None)
        found = self.started(attempt)
        assert found is not None
        return found

    def end(self, attempt: AttemptId) -> Event:
        """Wait for the one event that ends the attempt."""
        self.wait(lambda: bool(self.ends(attempt)))
        assert len(self.ends(attempt)) == 1
        return self.ends(attempt)[0]

    def failed(self, attempt: AttemptId) -> GangFailed:
        event = self.end(attempt)
        assert isinstance(event, GangFailed), event
        return event

    def ends(self, attempt: AttemptId) -> list[Event]:
        return [
            event
            for event in self.seen
            if isinstance(event, GangYielded | GangFinished | GangFailed)
            and event.attempt == attempt
        ]
