"""What every Cluster must do; subclass it and supply the fixtures.

The runs use the fake trainer, whose options (`epoch_seconds`, `fail_at_epoch`, `crash_at_epoch`)
mean the same in a simulation and in a real worker.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from orchestrator.messages import (
    AttemptEvent,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    KillGang,
    NodeJoined,
    PreemptGang,
    ProgressReported,
    StartGang,
)
from orchestrator.plan.batch import plan_batch
from orchestrator.types import (
    AttemptId,
    Bytes,
    Cause,
    CheckpointRef,
    Node,
    Placement,
    RunId,
    RunSpec,
    Scalar,
    Share,
    StopMode,
    TrainSettings,
)

__all__ = ["ClusterContract", "ends", "epochs"]

END = (GangYielded, GangFinished, GangFailed)


def ends(events: Sequence[Event]) -> list[Event]:
    """The events that end an attempt."""
    return [event for event in events if isinstance(event, END)]


def epochs(events: Sequence[Event]) -> list[int]:
    """The epochs reported, in order."""
    return [event.progress.epoch for event in events if isinstance(event, ProgressReported)]


class ClusterContract:
    """Subclasses supply `cluster` (with `now()` or a `clock` fixture) and `folder`."""

    limit_seconds = 120.0  # by the cluster's own clock; a test that needs more has failed
    epoch_seconds = 0.2

    @pytest.fixture
    def cluster(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def clock(self, cluster: Any) -> Any:
        """The clock that stamps the cluster's events."""
        return cluster

    @pytest.fixture
    def folder(self, tmp_path: Any) -> str:
        """Where the runs of a test keep their files."""
        return str(tmp_path)

    def spec(
        self,
        folder: str,
        name: str,
        *,
        epochs: int = 3,
        options: Mapping[str, Scalar] | None = None,
    ) -> RunSpec:
        """A run of the fake trainer on one card."""
        given = {"epoch_seconds": self.epoch_seconds, **(options or {})}
        return RunSpec(
            run_id=RunId(f"20250101-000000-{name}-0001"),
            project="contract",
            trainer="fake",
            settings=TrainSettings(
                model="fake", data="none", imgsz=32, epochs=epochs, options=given
            ),
            effective_batch=8,
            folder=f"{folder}/{name}",
        )

    def until(
        self, cluster: Any, clock: Any, done: Callable[[list[Event]], bool], seen: list[Event]
    ) -> list[Event]:
        """Wait until `done` holds for everything seen."""
        limit = clock.now() + self.limit_seconds
        while not done(seen):
            assert clock.now() < limit, f"not within {self.limit_seconds} s; seen: {seen}"
            seen.extend(cluster.wait(limit))
        return seen

    def nodes(self, cluster: Any, clock: Any) -> list[Node]:
        """The nodes that the cluster announces by itself."""
        events = self.until(
            cluster, clock, lambda seen: any(isinstance(e, NodeJoined) for e in seen), []
        )
        return [event.node for event in events if isinstance(event, NodeJoined)]

    def start(
        self,
        spec: RunSpec,
        node: Node,
        *,
        number: int = 1,
        checkpoints: tuple[CheckpointRef, ...] = (),
    ) -> StartGang:
        """A gang of one on the node's first card, or on its CPU where it has no card."""
        card = node.cards[0] if node.cards else None
        budget: Bytes = card.memory_bytes - card.foreign_bytes if card else 0
        share = Share(
            node_id=node.node_id,
            card=card.index if card else None,
            memory_bytes=budget,
            num_cpus=0.0 if card else 1.0,
        )
        return StartGang(
            attempt=AttemptId(run_id=spec.run_id, number=number),
            spec=spec,
            batch=plan_batch(spec),
            placement=Placement((share,)),
            checkpoints=checkpoints,
        )

    def after_end(self, events: list[Event]) -> bool:
        return bool(ends(events))

    def test_a_gang_starts_reports_every_epoch_and_finishes(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        node = self.nodes(cluster, clock)[0]
        action = self.start(self.spec(folder, "whole"), node)
        cluster.apply(action)
        seen = self.until(cluster, clock, self.after_end, [])
        mine = [event for event in seen if isinstance(event, AttemptEvent)]
        stored = [event for event in mine if not event.is_volatile]
        assert {event.attempt for event in mine} == {action.attempt}
        assert isinstance(stored[0], GangStarted)
        assert epochs(stored) == [1, 2, 3]
        assert isinstance(stored[-1], GangFinished)
        assert [event.at for event in stored] == sorted(event.at for event in stored)

    def test_every_epoch_comes_with_a_checkpoint_that_names_it(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        action = self.start(self.spec(folder, "saved"), self.nodes(cluster, clock)[0])
        cluster.apply(action)
        seen = self.until(cluster, clock, self.after_end, [])
        reports = [event for event in seen if isinstance(event, ProgressReported)]
        refs = [report.checkpoint for report in reports]
        assert all(ref is not None and ref.attempt == action.attempt for ref in refs)
        assert [ref.epoch for ref in refs if ref] == [1, 2, 3]

    def test_a_gang_that_is_preempted_yields_before_its_last_epoch(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        spec = self.spec(folder, "asked", epochs=10_000)
        action = self.start(spec, self.nodes(cluster, clock)[0])
        cluster.apply(action)
        seen = self.until(cluster, clock, lambda events: bool(epochs(events)), [])
        cluster.apply(PreemptGang(attempt=action.attempt, mode=StopMode.AT_BATCH))
        self.until(cluster, clock, self.after_end, seen)
        assert [type(event) for event in ends(seen)] == [GangYielded]
        assert len(epochs(seen)) < 10_000

    def test_a_gang_that_may_finish_its_epoch_records_it_first(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        spec = self.spec(folder, "polite", epochs=10_000)
        action = self.start(spec, self.nodes(cluster, clock)[0])
        cluster.apply(action)
        seen = self.until(cluster, clock, lambda events: bool(epochs(events)), [])
        cluster.apply(PreemptGang(attempt=action.attempt, mode=StopMode.AFTER_EPOCH))
        self.until(cluster, clock, self.after_end, seen)
        stored = [event for event in seen if not event.is_volatile]
        assert isinstance(stored[-1], GangYielded)
        assert isinstance(stored[-2], ProgressReported)
        assert len(epochs(seen)) >= 2

    def test_a_gang_that_is_killed_says_so(self, cluster: Any, clock: Any, folder: str) -> None:
        spec = self.spec(folder, "killed", epochs=10_000)
        action = self.start(spec, self.nodes(cluster, clock)[0])
        cluster.apply(action)
        seen = self.until(cluster, clock, lambda events: bool(epochs(events)), [])
        cluster.apply(KillGang(attempt=action.attempt))
        self.until(cluster, clock, self.after_end, seen)
        failed = ends(seen)
        assert len(failed) == 1
        assert isinstance(failed[0], GangFailed)
        assert failed[0].cause is Cause.KILLED

    def test_a_mistake_of_the_training_is_told_with_its_cause(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        spec = self.spec(folder, "wrong", options={"fail_at_epoch": 2})
        cluster.apply(self.start(spec, self.nodes(cluster, clock)[0]))
        seen = self.until(cluster, clock, self.after_end, [])
        failed = ends(seen)[0]
        assert isinstance(failed, GangFailed)
        assert failed.cause is Cause.USER_ERROR
        assert failed.detail
        assert epochs(seen) == [1]

    def test_a_worker_that_dies_is_told_as_lost(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        spec = self.spec(folder, "dead", options={"crash_at_epoch": 2})
        cluster.apply(self.start(spec, self.nodes(cluster, clock)[0]))
        seen = self.until(cluster, clock, self.after_end, [])
        failed = ends(seen)[0]
        assert isinstance(failed, GangFailed)
        assert failed.cause is Cause.WORKER_LOST

    def test_the_next_attempt_goes_on_after_the_newest_checkpoint(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        node = self.nodes(cluster, clock)[0]
        spec = self.spec(folder, "again", epochs=4, options={"fail_at_epoch": 3})
        cluster.apply(self.start(spec, node))
        seen = self.until(cluster, clock, self.after_end, [])
        refs = [e.checkpoint for e in seen if isinstance(e, ProgressReported) and e.checkpoint]
        healthy = self.spec(folder, "again", epochs=4)
        cluster.apply(self.start(healthy, node, number=2, checkpoints=tuple(reversed(refs))))
        later = self.until(cluster, clock, self.after_end, [])
        assert epochs(later) == [3, 4]
        assert isinstance(ends(later)[-1], GangFinished)

    def test_actions_for_an_attempt_that_is_over_or_unknown_are_ignored(
        self, cluster: Any, clock: Any, folder: str
    ) -> None:
        action = self.start(self.spec(folder, "over"), self.nodes(cluster, clock)[0])
        cluster.apply(action)
        seen = self.until(cluster, clock, self.after_end, [])
        unknown = AttemptId(run_id=RunId("20250101-000000-never-0001"), number=1)
        for attempt in (action.attempt, unknown):
            cluster.apply(PreemptGang(attempt=attempt, mode=StopMode.AT_BATCH))
            cluster.apply(KillGang(attempt=attempt))
        limit = clock.now() + 1.0
        while clock.now() < limit:
            seen.extend(cluster.wait(limit))
        assert len(ends(seen)) == 1

    def test_waiting_ends_when_it_was_asked_to(self, cluster: Any, clock: Any) -> None:
        self.nodes(cluster, clock)
        limit = clock.now() + 1.0
        while clock.now() < limit:
            cluster.wait(limit)
        assert clock.now() == pytest.approx(limit, abs=5.0)
