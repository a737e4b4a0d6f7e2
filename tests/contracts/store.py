"""What every Store must do; subclass it and supply the `store` fixture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.messages import (
    CancelRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    NodeJoined,
    PriorityChanged,
    ProgressReported,
    ResumeRequested,
    RunSubmitted,
    StepReported,
    TimePassed,
)
from orchestrator.types import (
    AttemptId,
    Card,
    Cause,
    CheckpointRef,
    Finding,
    Node,
    NodeId,
    Progress,
    RunId,
    RunSpec,
    RunState,
    RunStatus,
    StepProgress,
    TrainSettings,
)

__all__ = ["StoreContract"]

RUN = RunId("20250101-000000-calm-otter-0001")
OTHER = RunId("20250101-000000-red-fox-0002")


def spec(run_id: RunId = RUN) -> RunSpec:
    return RunSpec(
        run_id=run_id,
        project="cells",
        trainer="fake",
        settings=TrainSettings(
            model="fake", data="none", imgsz=64, epochs=3, options={"epoch_seconds": 0.5}
        ),
        effective_batch=8,
        folder="/runs/cells",
    )


def status(run_id: RunId = RUN, *, attempt: int, state: RunState) -> RunStatus:
    return RunStatus(
        run_id=run_id,
        project="cells",
        trainer="fake",
        state=state,
        attempt=attempt,
        priority=50,
        queue="default",
        epoch=0,
        epochs=3,
        submitted_at=1.0,
    )


def attempt(number: int, run_id: RunId = RUN) -> AttemptId:
    return AttemptId(run_id=run_id, number=number)


def epoch(number: int, of: AttemptId, *, loss: float = 1.0, at: float = 5.0) -> ProgressReported:
    return ProgressReported(
        at=at,
        attempt=of,
        progress=Progress(
            epoch=number, epochs=3, metrics={"loss": loss}, seconds=2.0, num_images=64
        ),
        checkpoint=CheckpointRef(
            attempt=of, epoch=number, path=f"/c/{number}.pt", sha256="ab" * 32, num_bytes=10
        ),
    )


def finding(value: int = 2, *, name: str = "workers", is_measured: bool = True) -> Finding:
    return Finding(
        trainer="fake",
        card="RTX 2060",
        model="fake",
        kind="imgsz=64",
        name=name,
        value=value,
        told="a step takes 3 ms",
        is_measured=is_measured,
    )


def telling(of: AttemptId, *found: Finding, number: int = 1, at: float = 5.0) -> ProgressReported:
    """An epoch that tells what the attempt has tried."""
    event = epoch(number, of, at=at)
    return replace(event, progress=replace(event.progress, findings=found))


class StoreContract:
    """Subclasses supply `store`; a store that lives on disk also overrides `reopened`."""

    @pytest.fixture
    def store(self) -> Any:
        raise NotImplementedError

    def reopened(self, store: Any) -> Any:
        """The same store as a new process would open it."""
        return store

    def ask(self, store: Any, event: Event, key: str | None) -> None:
        """Put a person's wish into the inbox."""
        store.ask(event, key)

    def progress(self, store: Any, run_id: RunId) -> Sequence[Progress]:
        """One row per epoch, in the order of epochs."""
        rows: Sequence[Progress] = store.progress(run_id)
        return rows

    def running(self, store: Any, number: int = 1) -> AttemptId:
        """A submitted run whose attempt `number` holds the fence."""
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=number, state=RunState.RUNNING)])
        return attempt(number)

    def test_replay_returns_every_event_as_it_was_and_in_order(self, store: Any) -> None:
        events: list[Event] = [
            NodeJoined(
                at=0.5,
                node=Node(
                    node_id=NodeId("a"),
                    cards=(Card(index=0, name="RTX 2060", memory_bytes=6 << 30),),
                ),
            ),
            RunSubmitted(at=1.0, spec=spec()),
            GangStarted(at=2.0, attempt=attempt(1), pids=(41, 42)),
            epoch(1, attempt(1)),
            TimePassed(at=9.25),
            GangFailed(at=10.0, attempt=attempt(1), cause=Cause.NAN_LOSS, detail="x", code="E2"),
        ]
        store.append(events[0])
        store.append(events[1])
        store.publish([status(attempt=1, state=RunState.STARTING)])
        for event in events[2:]:
            assert store.append(event)
        assert list(self.reopened(store).replay()) == events

    def test_a_journal_that_is_empty_replays_nothing(self, store: Any) -> None:
        assert list(store.replay()) == []

    def test_an_attempt_of_an_unpublished_run_writes_nothing(self, store: Any) -> None:
        assert not store.append(GangStarted(at=2.0, attempt=attempt(1)))
        assert list(store.replay()) == []

    @pytest.mark.parametrize("number", [1, 3])
    def test_only_the_published_attempt_writes(self, store: Any, number: int) -> None:
        self.running(store, 2)
        before = list(store.replay())
        assert not store.append(epoch(1, attempt(number)))
        assert not store.append(GangFinished(at=9.0, attempt=attempt(number)))
        assert list(store.replay()) == before
        assert list(self.progress(store, RUN)) == []
        assert store.append(epoch(1, attempt(2)))

    def test_the_fence_survives_a_restart(self, store: Any) -> None:
        self.running(store, 2)
        again = self.reopened(store)
        assert not again.append(epoch(1, attempt(1)))
        assert again.append(epoch(1, attempt(2)))

    @pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
    def test_nothing_is_written_for_a_terminal_run(self, store: Any, state: RunState) -> None:
        current = self.running(store)
        store.publish([status(attempt=1, state=state)])
        assert not store.append(epoch(1, current))
        assert not store.append(GangFinished(at=9.0, attempt=current))

    def test_what_people_ask_of_a_terminal_run_is_recorded(self, store: Any) -> None:
        self.running(store)
        store.publish([status(attempt=1, state=RunState.CANCELLED)])
        assert store.append(ResumeRequested(at=9.0, run_id=RUN))

    def test_an_epoch_is_recorded_once_per_attempt(self, store: Any) -> None:
        current = self.running(store)
        assert store.append(epoch(1, current, loss=0.9))
        assert not store.append(epoch(1, current, loss=0.1))
        assert [row.metrics["loss"] for row in self.progress(store, RUN)] == [0.9]
        assert not self.reopened(store).append(epoch(1, current, loss=0.1))

    def test_a_newer_attempt_replaces_the_row_and_the_journal_keeps_both(self, store: Any) -> None:
        first = self.running(store)
        store.append(epoch(1, first, loss=0.9))
        store.append(epoch(2, first, loss=0.8))
        store.publish([status(attempt=2, state=RunState.RUNNING)])
        assert store.append(epoch(2, attempt(2), loss=0.7))
        rows = self.progress(self.reopened(store), RUN)
        assert [(row.epoch, row.metrics["loss"]) for row in rows] == [(1, 0.9), (2, 0.7)]
        reported = [event for event in store.replay() if isinstance(event, ProgressReported)]
        assert [event.progress.epoch for event in reported] == [1, 2, 2]

    def test_progress_of_one_run_is_not_that_of_another(self, store: Any) -> None:
        current = self.running(store)
        store.append(RunSubmitted(at=1.0, spec=spec(OTHER)))
        store.publish([status(OTHER, attempt=1, state=RunState.RUNNING)])
        store.append(epoch(1, current))
        store.append(epoch(1, attempt(1, OTHER)))
        assert len(self.progress(store, RUN)) == len(self.progress(store, OTHER)) == 1

    def test_a_volatile_event_is_welcome_and_not_recorded(self, store: Any) -> None:
        current = self.running(store)
        before = list(store.replay())
        step = StepProgress(epoch=1, epochs=3, step=4, num_steps=9, images_per_second=80.0)
        assert store.append(StepReported(at=3.0, attempt=current, step=step))
        assert list(store.replay()) == before

    def test_what_an_epoch_tells_of_tried_settings_is_kept_and_found_again(
        self, store: Any
    ) -> None:
        assert list(store.findings()) == []
        both = (finding(), finding(8, name="cache"))
        assert store.append(telling(self.running(store), *both))
        again = self.reopened(store)
        assert set(again.findings("fake")) == set(again.findings()) == set(both)
        assert list(again.findings("another")) == []

    def test_a_setting_has_one_answer_the_newest(self, store: Any) -> None:
        current = self.running(store)
        others = [replace(finding(), kind="imgsz=128"), replace(finding(), card="A100")]
        store.append(telling(current, finding(2), *others))
        store.append(telling(current, finding(4), number=2, at=6.0))
        assert set(store.findings()) == {finding(4), *others}

    def test_a_trial_that_failed_never_replaces_one_that_did_not(self, store: Any) -> None:
        current = self.running(store)
        failed = finding(8, is_measured=False)
        store.append(telling(current, failed))
        assert list(store.findings()) == [failed]
        store.append(telling(current, finding(2), number=2, at=6.0))
        store.append(telling(current, failed, number=3, at=7.0))
        assert list(self.reopened(store).findings()) == [finding(2)]

    def test_what_an_attempt_that_was_replaced_has_tried_changes_nothing(self, store: Any) -> None:
        self.running(store, 2)
        assert store.append(telling(attempt(2), finding(2)))
        assert not store.append(telling(attempt(1), finding(7), number=2))
        assert not store.append(telling(attempt(2), finding(7), number=1))  # told once more
        store.publish([status(attempt=2, state=RunState.CANCELLED)])
        assert not store.append(telling(attempt(2), finding(7), number=2))
        assert list(self.reopened(store).findings()) == [finding(2)]

    def test_the_inbox_is_moved_to_the_journal_stamped_and_in_order(self, store: Any) -> None:
        wishes: list[Event] = [
            RunSubmitted(at=1.0, spec=spec()),
            PriorityChanged(at=2.0, run_id=RUN, priority=80),
            CancelRequested(at=3.0, run_id=RUN, now=True),
        ]
        for number, wish in enumerate(wishes):
            self.ask(store, wish, f"k{number}")
        assert list(store.replay()) == []
        again = self.reopened(store)
        received = list(again.receive(7.0))
        assert [type(event) for event in received] == [type(wish) for wish in wishes]
        assert [event.at for event in received] == [7.0, 7.0, 7.0]
        assert list(again.replay()) == received
        assert list(again.receive(8.0)) == []

    def test_asking_twice_with_one_key_is_asking_once(self, store: Any) -> None:
        wish = RunSubmitted(at=1.0, spec=spec())
        self.ask(store, wish, "key")
        self.ask(store, wish, "key")
        assert len(list(store.receive(2.0))) == 1
        self.ask(self.reopened(store), wish, "key")
        assert list(self.reopened(store).receive(3.0)) == []
