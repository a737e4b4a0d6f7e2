"""What a step asks of a card: two steps performed on fake tensors, every storage on record."""

import gc
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.memory.answers import Answers
from orchestrator.memory.events import Birth, Event, StepTrace
from orchestrator.memory.fake import Memory
from orchestrator.memory.pose import posing_as_card
from orchestrator.memory.split import Units, split_trace
from orchestrator.memory.stage import FakeStage, Stage
from orchestrator.plan.sharded import WHOLE, place_of
from orchestrator.plan.workload import Workload

__all__ = ["Steps", "canonical", "steps_of", "trace_pair", "trace_step"]

_PAIRS = ((2, 4), (4, 8), (8, 16))
_LOOPED_PAIRS = ((8, 16), (16, 32))
_GROUPS = 4  # of images, where a loss loops over them


class Steps(Protocol):
    """Performs the steps of a workload."""

    def build(self, *, is_fake: bool) -> Any:
        """Make what is performed with, before any tensor is fake; every call makes it anew."""

    def perform(self, stage: Stage, built: Any, batch: int, steps: int = 2) -> object:
        """Perform them; returns what has to stay alive."""

    def units(self, built: Any) -> Units:
        """What becomes whole together where the ranks of a gang share out the weights."""


def steps_of(workload: Workload) -> Steps:
    """What performs the steps of a workload.

    Raises:
        ConfigError: There is no such model, or a setting of it is not possible.
        OrchestratorError: E2130, it cannot be made here.
    """
    with _making(workload):
        if workload.trainer == "timm":
            from orchestrator.memory.steps_timm import TimmSteps

            return TimmSteps(workload)
        from orchestrator.memory.steps_yolo import YoloSteps

        return YoloSteps(workload)


def trace_step(
    workload: Workload,
    batch: int,
    *,
    device: str = "cuda",
    steps: Steps | None = None,
    memory: Memory | None = None,
    groups: int = 0,
) -> StepTrace:
    """Perform two steps of `batch` samples and record every storage.

    It changes torch while it runs: call it in a process that does nothing else, see `process`.

    Args:
        workload: What to perform; two pieces of `batch` samples a step if `is_cut`.
        batch: Samples of a forward pass.
        device: "cuda", or "cpu" to compare with what really happens on this machine.
        steps: Performs them; made from the workload if None.
        memory: Of earlier traces, which saves time.
        groups: Parts in which a loss that loops over images runs; 0 is once an image, as in
            reality.

    Raises:
        OrchestratorError: E2130, an operator of the model cannot be traced; it names it.
        ConfigError: The workload is not possible.
    """
    steps = steps or steps_of(workload)
    stage = FakeStage(
        torch.device(device, 0) if device == "cuda" else torch.device(device),
        Answers(labels=workload.labels, batch=batch, groups=groups),
        memory or Memory(),
        has_flash=workload.has_flash_attention,
    )
    with _making(workload):
        built = steps.build(is_fake=True)
    with posing_as_card(has_flash=workload.has_flash_attention), _undisturbed(), stage.entered():
        try:
            alive = steps.perform(stage, built, batch)
        except OrchestratorError:
            raise
        except Exception as error:
            raise _cannot_trace(workload, stage, error) from error
        trace = stage.finish(batch)
        del alive
    return _of_rank(trace, workload, steps, built)


def _of_rank(trace: StepTrace, workload: Workload, steps: Steps, built: Any) -> StepTrace:
    """The trace of a rank that keeps a part of the state, where the ranks share it out."""
    place = place_of(workload)
    if place == WHOLE:
        return trace
    return split_trace(trace, steps.units(built), workload.world_size, is_on_host=place == "host")


def trace_pair(
    workload: Workload, *, device: str = "cuda", memory: Memory | None = None
) -> tuple[StepTrace, StepTrace]:
    """Trace two small batches whose records have the same structure.

    Consecutive deaths are put in ascending order. The sizes of the storages are linear in the
    batch, so the pair tells of any batch. A `memory` of traces before, of whatever workload, saves
    time.

    Raises:
        OrchestratorError: E2130, see `trace_step`; E2131, no two batches have the same structure.
        ConfigError: The workload is not possible.
    """
    with _uncollected():
        return _pair(workload, device, memory or Memory())


def _pair(workload: Workload, device: str, memory: Memory) -> tuple[StepTrace, StepTrace]:
    steps = steps_of(workload)
    loops = workload.task == "segment"
    why = ""
    for pair in _LOOPED_PAIRS if loops else _PAIRS:
        first, second = (
            canonical(
                trace_step(
                    workload,
                    batch,
                    device=device,
                    steps=steps,
                    memory=memory,
                    groups=_GROUPS if loops else 0,
                )
            )
            for batch in pair
        )
        why = _difference(first, second)
        if not why:
            return first, second
    raise OrchestratorError(
        f"the memory of {workload.model} does not grow evenly with the batch",
        code="E2131",
        why=(why,),
        fix=("give memory in the config, or let a short trial run measure it",),
    )


def canonical(trace: StepTrace) -> StepTrace:
    """Put consecutive deaths in ascending order: some caches are emptied in any order."""
    events: list[Event] = []
    dead: list[int] = []
    for event in trace.events:
        if isinstance(event, int):
            dead.append(event)
            continue
        events += sorted(dead)
        dead.clear()
        events.append(event)
    events += sorted(dead)
    return StepTrace(batch=trace.batch, events=tuple(events), marks=trace.marks)


def _difference(first: StepTrace, second: StepTrace) -> str:
    if len(first.events) != len(second.events):
        return (
            f"{len(first.events)} events with {first.batch} samples,"
            f" {len(second.events)} with {second.batch}"
        )
    for number, (a, b) in enumerate(zip(first.events, second.events, strict=True)):
        is_same = (
            a.storage == b.storage
            if isinstance(a, Birth) and isinstance(b, Birth)
            else not isinstance(a, Birth) and a == b
        )
        if not is_same:
            return f"event {number} is {a} with {first.batch} samples, {b} with {second.batch}"
    return ""


def _cannot_trace(workload: Workload, stage: FakeStage, error: Exception) -> OrchestratorError:
    lines = str(error).strip().splitlines() or [""]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    module = stage.tracker.module
    return OrchestratorError(
        f"the memory of {workload.model} cannot be predicted",
        code="E2130",
        why=(
            f"stopped at {stage.card.stopped_at or frame.line}"
            + (f" in the module {module}" if module else ""),
            f"{type(error).__name__}: {lines[0][:200]}",
            f"{Path(frame.filename).name}:{frame.lineno}",
        ),
        fix=("give memory in the config, or let a short trial run measure it",),
    )


@contextmanager
def _making(workload: Workload) -> Iterator[None]:
    """What goes wrong while a model is made ends the prediction of this model alone."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise OrchestratorError(
            f"{workload.model} cannot be made, so its memory is not predicted",
            code="E2130",
            why=(
                f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}",
                f"{Path(frame.filename).name}:{frame.lineno}",
            ),
            fix=("give memory in the config, or let a short trial run measure it",),
        ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of cycles in between: it would come at other places in every trace."""
    with _uncollected(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    """Cycles are left: looking for them in all that is imported takes longer than a trace."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()
