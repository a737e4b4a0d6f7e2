"""The weights that one run hands to the next are those that were recorded, or none."""

from pathlib import Path
from typing import BinaryIO

import pytest

from orchestrator.cluster.verified import verified_weights
from orchestrator.errors import TrainingError
from orchestrator.messages import StartGang
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    Cause,
    CheckpointRef,
    Placement,
    RunId,
)
from tests.strategies import make_spec


def order(weights: CheckpointRef | None, source: str | None = "one") -> StartGang:
    return StartGang(
        attempt=AttemptId(run_id=RunId("two"), number=1),
        spec=make_spec("two", weights_from=source),
        batch=BatchPlan(effective_batch=8, world_size=1, micro_batch=8),
        placement=Placement(()),
        weights=weights,
    )


@pytest.fixture
def recorded(tmp_path: Path) -> CheckpointRef:
    seen: list[object] = []

    def write(file: BinaryIO) -> None:
        file.write(b"weights")

    return FileCheckpoints(str(tmp_path / "one")).write(
        AttemptId(run_id=RunId("one"), number=1),
        3,
        write,
        is_best=True,
        check=seen.append,
    )


def test_a_checkpoint_as_it_was_recorded_is_handed_over(recorded: CheckpointRef) -> None:
    assert verified_weights(order(recorded), FileCheckpoints) == recorded


def test_a_run_that_asks_for_none_gets_none(recorded: CheckpointRef) -> None:
    assert verified_weights(order(recorded, source=None), FileCheckpoints) is None


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_checkpoint_that_is_another_now_is_refused(recorded: CheckpointRef, damage: str) -> None:
    path = Path(recorded.path)
    path.unlink() if damage == "gone" else path.write_bytes(b"weightz")
    with pytest.raises(TrainingError, match="run one, from which this one starts") as refused:
        verified_weights(order(recorded), FileCheckpoints)
    assert refused.value.cause is Cause.DATA_ERROR
    assert recorded.path in refused.value.why[0]


def test_a_run_without_any_checkpoint_hands_nothing_over() -> None:
    with pytest.raises(TrainingError) as refused:
        verified_weights(order(None), FileCheckpoints)
    assert refused.value.why == ("no checkpoint was recorded",)
