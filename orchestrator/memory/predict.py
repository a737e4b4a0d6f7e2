"""Predictions: what joins traces, replays, overheads and the book into scales for the plan."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Protocol, TypeAlias

from orchestrator.errors import OrchestratorError
from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Scales
from orchestrator.plan.correct import AS_PREDICTED, Correction, Peak, Question, correction
from orchestrator.plan.footprint import Demand, Footprint
from orchestrator.plan.overheads import Overheads, bucket_bytes, overheads
from orchestrator.plan.sharded import WHOLE, place_of
from orchestrator.plan.workload import StepKind, Workload
from orchestrator.types import Bytes

__all__ = [
    "Predictor",
    "installed_versions",
    "is_unpredictable",
    "overheads_on",
    "scales_of",
    "workload_text",
]

Asked: TypeAlias = tuple[Workload, Sequence[int]]

_LIBRARIES = ("torch", "torchvision", "ultralytics", "timm")
_UNPREDICTABLE = ("E212", "E213")  # traces that do not match, operators that cannot be traced
# On an emulated card the tracker of live tensors is what raises, so the peak of live tensors is
# what must fit. The margin covers what a CPU's kernels keep that a card's do not.
_EMULATED_FACTOR = 1.05


# There a checkpoint's copy on the host counts as if it were on the card, on saving and on going on
# from one: the state itself, its copy, and the averaged weights that are published beside it.
_CHECKPOINT_FACTOR = 2.5


class Predictor(Protocol):
    """Says what steps demand, without a GPU."""

    def footprints(self, asked: Sequence[Asked]) -> list[Footprint]:
        """The footprint of each workload, known at least at the micro-batches beside it.

        Raises:
            OrchestratorError: E212x or E213x, a workload cannot be predicted; says why.
        """
        ...

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        """What holds the bytes at the peak, by part and by module; raises as `footprints`."""
        ...


def is_unpredictable(error: OrchestratorError) -> bool:
    """True when an error says that a model cannot be predicted, not that something is wrong."""
    return error.code.startswith(_UNPREDICTABLE)


@cache
def installed_versions() -> str:
    """The libraries that decide what a step allocates, and their versions, in a fixed order."""
    found = []
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name}={metadata.version(name)}")
    return " ".join(found)


@cache
def workload_text(workload: Workload) -> str:
    """A workload as one line, by which the book knows it again."""
    return json.dumps(asdict(workload), sort_keys=True, separators=(",", ":"))


def scales_of(predictor: Predictor, book: Sequence[Peak], *, versions: str | None = None) -> Scales:
    """What the plan measures with.

    Footprints are asked for once each; what cannot be predicted raises as the predictor does.
    """
    known: dict[tuple[Workload, tuple[int, ...]], Footprint] = {}
    installed = installed_versions() if versions is None else versions

    def lookup(workload: Workload, sizes: Sequence[int]) -> Footprint:
        key = (workload, tuple(sizes))
        if key not in known:
            known[key] = predictor.footprints([key])[0]
        return known[key]

    def need(workload: Workload, demand: Demand, target: Target) -> Bytes:
        # Of a model that is shared out, what travels is part of the blocks that are whole.
        is_whole = place_of(workload) == WHOLE
        weights = 0
        if is_whole and workload.world_size > 1:
            weights = _weights(workload, lookup, demand)
        buckets = bucket_bytes(weights, _compression(workload))
        if target.is_emulated:
            state = _state(workload, lookup, demand) if is_whole else 0  # saved part by part
            live = max(demand.allocated_bytes, math.ceil(state * _CHECKPOINT_FACTOR))
            return math.ceil((live + buckets) * _EMULATED_FACTOR)
        return overheads_on(workload, target, weights).needed_bytes(demand)

    return Scales(lookup=lookup, need=need, correct=_corrector(tuple(book), installed))


def overheads_on(workload: Workload, target: Target, parameter_bytes: Bytes = 0) -> Overheads:
    """What a process that runs the workload takes of a card beside its blocks."""
    return _overheads(
        target.architecture,
        workload.trainer == "yolo",
        workload.world_size,
        parameter_bytes,
        _compression(workload),
    )


def _compression(workload: Workload) -> str:
    """What the gradients of a gang travel as."""
    return str(dict(workload.options).get("ddp_compression", "none"))


@cache
def _overheads(
    architecture: str,
    is_deterministic: bool,  # noqa: FBT001 - the key of a cache
    world_size: int,
    parameter_bytes: Bytes,
    compression: str,
) -> Overheads:
    return overheads(
        architecture,
        is_deterministic=is_deterministic,
        world_size=world_size,
        parameter_bytes=parameter_bytes,
        compression=compression,
    )


def _weights(
    workload: Workload, lookup: Callable[[Workload, Sequence[int]], Footprint], demand: Demand
) -> Bytes:
    """Bytes of the parameters, whose gradients lie in the buckets of a gang."""
    return lookup(workload, (demand.micro_batch,)).parts.get("weights", 0)


def _state(
    workload: Workload, lookup: Callable[[Workload, Sequence[int]], Footprint], demand: Demand
) -> Bytes:
    """Bytes that stay from step to step: weights, optimizer state, averaged weights."""
    if workload.kind is not StepKind.TRAIN:
        return 0
    parts = lookup(workload, (demand.micro_batch,)).parts
    return sum(parts.get(name, 0) for name in ("weights", "statistics", "optimizer", "ema"))


def _corrector(
    book: tuple[Peak, ...], versions: str
) -> Callable[[Workload, int, Bytes, Target], Correction]:
    def correct(workload: Workload, size: int, predicted: Bytes, target: Target) -> Correction:
        if not book:
            return AS_PREDICTED
        question = Question(
            trainer=workload.trainer,
            model=workload.model,
            workload=workload_text(workload),
            micro_batch=size,
            card=target.name,
            is_emulated=target.is_emulated,
            versions=versions,
            predicted_bytes=predicted,
        )
        return correction(question, book)

    return correct
