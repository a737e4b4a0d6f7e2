"""Gangs whose ranks share out weights, gradients and optimizer state: which may, and the step."""

from dataclasses import replace

from orchestrator.plan.workload import OptimizerState, Workload
from orchestrator.types import RunSpec

__all__ = ["KEY", "WHOLE", "place_of", "refusal", "sharded"]

KEY = "ddp_shard"
"""The option of a run that says where the ranks keep their parts."""

WHOLE = "none"
"""Each rank has all of it."""

# Whose update treats each number by itself, so that a part can be updated without the rest.
_SEPARABLE = ("auto", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "sgd")


def place_of(workload: Workload) -> str:
    """Where a rank keeps its part of the state: "card", "host", or "none" if it has all of it."""
    return str(dict(workload.options).get(KEY, WHOLE)) if workload.world_size > 1 else WHOLE


def sharded(workload: Workload, place: str) -> Workload:
    """The same step with the state shared out over the ranks, kept on the "card" or the "host".

    The optimizer's state is where the parts are, and no rank can repeat a step alone, so that it
    seeks no room before an update.
    """
    options = {**dict(workload.options), KEY: place}
    return replace(
        workload, optimizer_state=OptimizerState.CARD, options=tuple(sorted(options.items()))
    )


def refusal(spec: RunSpec) -> str:
    """Why the ranks of a run cannot share out its state; empty where they can."""
    settings, num, few = spec.settings, spec.num_gpus, spec.min_gpus or spec.num_gpus
    options, batch = settings.options, spec.effective_batch
    is_compiled = bool(options.get("compile")) or "compile" in str(options.get("auto", ""))
    sent_as = options.get("ddp_compression") or WHOLE
    reasons = (
        (spec.trainer != "timm", "ultralytics' trainer keeps a whole model on every GPU"),
        (num < 2, "one GPU has nobody to share with: resources.gpus=2"),
        (few < num, f"the gang may shrink to {few}, and parts would grow: resources.gpus={num}"),
        (batch % num != 0, f"batch {batch} does not divide among {num} GPUs"),
        (
            settings.optimizer.lower() not in _SEPARABLE,
            f"the optimizer {settings.optimizer} needs whole tensors: optimizer=AdamW",
        ),
        (is_compiled, "a compiled step is not shared out: compile=false"),
        (bool(options.get("ddp_sync_bn")), "BatchNorm over all GPUs keeps the model whole"),
        (sent_as != WHOLE, f"parts do not travel as {sent_as}: ddp.compression=none"),
    )
    return next((why for is_so, why in reasons if is_so), "")
