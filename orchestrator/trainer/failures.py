"""What can go wrong with a run that has a name, said for people."""

from collections.abc import Sequence

from orchestrator.errors import ConfigError, TrainingError
from orchestrator.ports import Device
from orchestrator.types import Cause, TrainTask

__all__ = ["check_task", "not_finite", "out_of_memory", "single_sample"]


def check_task(task: TrainTask) -> None:
    """Refuse what this trainer cannot do.

    Raises:
        ConfigError: A cache on disk.
    """
    if task.spec.settings.cache not in ("false", "ram"):
        raise ConfigError(
            f'cache is "{task.spec.settings.cache}"',
            code="E1121",
            fix=("use ram or false for a timm classifier",),
        )


def single_sample(task: TrainTask) -> TrainingError:
    """BatchNorm met one value per channel, which has no variance."""
    return TrainingError(
        "BatchNorm cannot learn from a piece of one picture whose features are 1 x 1",
        cause=Cause.USER_ERROR,
        code="E2112",
        why=(f"pieces of a step: {task.batch.pieces}, imgsz {task.spec.settings.imgsz}",),
        fix=("choose a batch that leaves no piece of 1, or a larger imgsz",),
    )


def out_of_memory(task: TrainTask, device: Device, why: str) -> TrainingError:
    """Memory ran out; `why` is what torch said."""
    batch, memory = task.batch, device.memory()
    budget = memory.total_bytes if device.budget_bytes is None else device.budget_bytes
    return TrainingError(
        f"out of memory on {device.name} with micro-batch {batch.micro_batch}",
        cause=Cause.OUT_OF_MEMORY,
        code="E2104",
        why=(
            why,
            f"batch {batch.effective_batch} in {batch.accumulation_steps} pieces of at most"
            f" {batch.micro_batch}, {task.spec.settings.model} at {task.spec.settings.imgsz} px",
            f"budget {budget / 2**30:.2f} GiB, peak {device.peak_bytes() / 2**30:.2f} GiB,"
            f" {memory.free_bytes / 2**30:.2f} GiB free on the card",
        ),
        fix=("a smaller micro-batch trains the same batch in more pieces",),
    )


def not_finite(loss: float, where: str, *, why: Sequence[str], fix: Sequence[str]) -> TrainingError:
    """The loss is NaN or infinite; what was learnt since is worthless."""
    return TrainingError(
        f"the loss is {loss} {where}",
        cause=Cause.NAN_LOSS,
        code="E2110",
        why=tuple(why),
        fix=tuple(fix),
    )
