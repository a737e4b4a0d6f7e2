"""The checkpoints that an attempt goes on from, or begins with: verified, or refused by name."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.address import above, is_address
from orchestrator.errors import TrainingError
from orchestrator.messages import StartGang
from orchestrator.ports import Checkpoints
from orchestrator.types import Cause, CheckpointRef

__all__ = ["first_verified", "run_folder", "verified_start", "verified_weights"]


def run_folder(ref: CheckpointRef) -> str:
    """The folder of the run that a checkpoint is of: a path or an address."""
    return above(ref.path, 3) if is_address(ref.path) else str(Path(ref.path).parents[2])


def first_verified(
    checkpoints: Checkpoints, recorded: Sequence[CheckpointRef]
) -> CheckpointRef | None:
    """The first recorded checkpoint that is as it was written; the others are named in the log."""
    for ref in recorded:
        if checkpoints.verify(ref):
            return ref
        sys.stderr.write(
            f"checkpoint of epoch {ref.epoch} is missing or damaged, going further back:"
            f" {ref.path}\n"
        )
    return None


def verified_start(
    order: StartGang, checkpoints: Callable[[str], Checkpoints]
) -> CheckpointRef | None:
    """The checkpoint of another run that this one goes on from; None where it begins afresh.

    Args:
        order: An attempt without a checkpoint of its own.
        checkpoints: Finds the checkpoints of the run whose folder it is given.

    Raises:
        TrainingError: E5021, it is gone, or is not as it was recorded.
    """
    ref = order.spec.start_from
    if ref is None or checkpoints(run_folder(ref)).verify(ref):
        return ref
    raise TrainingError(
        f"the checkpoint of run {ref.attempt.run_id}, from which this one starts, is not there",
        cause=Cause.DATA_ERROR,
        code="E5021",
        why=(f"missing or changed: {ref.path}",),
        fix=("put it back",),
    )


def verified_weights(
    order: StartGang, checkpoints: Callable[[str], Checkpoints]
) -> CheckpointRef | None:
    """The checkpoint whose weights a fresh start begins with; None where none is asked for.

    Args:
        order: The attempt that starts afresh.
        checkpoints: Finds the checkpoints of the run whose folder it is given.

    Raises:
        TrainingError: E5021, it was never written, is gone, or is not as it was recorded: training
            from anything else would be another experiment.
    """
    source, ref = order.spec.weights_from, order.weights
    if source is None:
        return None
    if ref is not None and checkpoints(run_folder(ref)).verify(ref):
        return ref
    told = "no checkpoint was recorded" if ref is None else f"missing or changed: {ref.path}"
    raise TrainingError(
        f"the weights of run {source}, from which this one starts, are not there",
        cause=Cause.DATA_ERROR,
        code="E5021",
        why=(told,),
        fix=(f"put its checkpoints back, or train {source} again",),
    )
