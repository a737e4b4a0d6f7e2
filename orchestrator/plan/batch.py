"""How the effective batch is cut: exactly, whatever the card holds."""

from dataclasses import replace

from orchestrator.errors import PlanError
from orchestrator.types import BatchPlan, RunSpec

__all__ = ["balanced", "plan_batch", "recut_over", "smaller"]


def balanced(num_samples: int, limit: int) -> int:
    """The micro-batch of the fewest pieces of at most `limit` samples, all as equal as can be.

    33 samples under a limit of 32 are 17 + 16, not 32 + 1: a piece of one sample gives BatchNorm
    nothing to average, and the largest piece is what the memory has to hold.
    """
    steps = -(-num_samples // limit)
    return -(-num_samples // steps)


def plan_batch(spec: RunSpec) -> BatchPlan:
    """Cut the run's effective batch over its ranks and, where a limit is set, into micro-batches.

    A rank takes `effective_batch / num_gpus` samples a step, the first ones one more where that is
    not whole. Without a limit in `spec.micro_batch` the step is not cut; with one, it is cut into
    the fewest pieces of at most that many samples, balanced; the last piece may be smaller.

    Raises:
        PlanError: a number is below 1, or there are fewer samples than ranks.
    """
    world, batch = spec.num_gpus, spec.effective_batch
    limit = spec.micro_batch
    for name, value in (("batch", batch), ("resources.gpus", world), ("micro_batch", limit)):
        if value is not None and value < 1:
            raise PlanError(
                f"{name} is {value} in project {spec.project!r}; it must be at least 1",
                code="E2001",
                fix=(f"{name}=1, or more",),
            )
    if batch < world:
        raise PlanError(
            f"batch {batch} of project {spec.project!r} is less than its {world} GPUs",
            code="E2002",
            why=("every GPU takes a sample or more of each step", "batch is never rounded"),
            fix=(f"batch={world}, or more", f"resources.gpus={batch}"),
        )
    rank_batch = -(-batch // world)
    return BatchPlan(
        effective_batch=batch,
        world_size=world,
        micro_batch=rank_batch if limit is None else balanced(rank_batch, limit),
    )


def recut_over(batch: BatchPlan, world_size: int) -> BatchPlan:
    """The same effective batch over another number of ranks, in micro-batches no larger.

    Raises:
        ValueError: there are fewer samples than ranks.
    """
    rank_batch = -(-batch.effective_batch // world_size)
    return BatchPlan(
        effective_batch=batch.effective_batch,
        world_size=world_size,
        micro_batch=balanced(rank_batch, batch.micro_batch),
    )


def smaller(batch: BatchPlan) -> BatchPlan | None:
    """Return the next smaller cut of the same batch: half the micro-batch, rounded up.

    Returns:
        A plan with the same effective batch and world size, or None when the micro-batch is
        one sample and nothing is left to cut.
    """
    if batch.micro_batch == 1:
        return None
    return replace(batch, micro_batch=-(-batch.micro_batch // 2))
