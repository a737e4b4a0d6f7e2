"""What a traced step becomes when the ranks of a gang share out weights and optimizer state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.memory.events import Birth, Event, StepTrace
from orchestrator.types import Bytes

__all__ = ["Units", "split_trace"]

_OF_RANKS = ("gradients", "optimizer", "ema", "workspace")  # and weights, but for their copies
# Of the largest block, what is whole at one time while a backward pass runs: the weights that
# compute and those that come next, its gradients, and what of them is on its way to the others.
# Chosen on what two ranks were counted to hold in nine models: 0.8 to 3.1 (`jobs.bench_shard`).
_BLOCKS = 3.2
_BLOCKS_FORWARD = 2.0  # without gradients: those that compute, and those that come next
_ROOT = 2.0  # weights outside of blocks, and their gradients, are whole all through


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Bytes of the weights that become whole together: outside of blocks, and of each block."""

    root: Bytes
    blocks: Sequence[Bytes] = ()

    def whole_bytes(self, *, has_gradients: bool) -> Bytes:
        """The most that is whole at one time, gradients of whole weights included."""
        largest = max(self.blocks, default=0)
        if not has_gradients:
            return int(self.root + _BLOCKS_FORWARD * largest)
        return int(_ROOT * self.root + _BLOCKS * largest)


def split_trace(trace: StepTrace, units: Units, num_ranks: int, *, is_on_host: bool) -> StepTrace:
    """The trace of one rank that keeps its part alone, on its card or in its host's memory.

    Weights, gradients, averages, the optimizer's state and what its update takes are an equal
    part. Copies of weights in half precision, which autocast makes of whole ones, stay whole, as
    activations do. What is whole while it computes is born with each step's first forward pass,
    and dies when its update begins.

    Args:
        trace: Of a rank with everything.
        units: Of its model.
        num_ranks: That share.
        is_on_host: Whether the parts lie beside the card.
    """
    steps = _steps(trace)
    has_gradients = any("backward" in name for name, _ in trace.marks)
    whole = units.whole_bytes(has_gradients=has_gradients)
    first = min((begin for begin, _ in steps), default=len(trace.events))
    begins, ends = {begin for begin, _ in steps}, {end for _, end in steps}
    events: list[Event] = []
    numbers: dict[int, int] = {}  # in the order of birth, which new ones change
    num_born, held = 0, -1
    moved: list[int] = []  # where each event has come to lie
    for at, event in enumerate(trace.events):
        if at in ends and held >= 0:
            events.append(held)
            held = -1
        moved.append(len(events))
        if at in begins and whole:
            held, num_born = num_born, num_born + 1
            events.append(Birth(held, whole, "weights", op="gathered"))
        if isinstance(event, Birth):
            numbers[event.storage], num_born = num_born, num_born + 1
            is_part = event.part in _OF_RANKS or (event.part == "weights" and at < first)
            size = event.num_bytes
            if is_part:
                size = 0 if is_on_host else -(-size // num_ranks)
            events.append(replace(event, storage=numbers[event.storage], num_bytes=size))
        else:
            events.append(numbers[event])
    moved.append(len(events))
    marks = tuple((name, moved[at]) for name, at in trace.marks)
    return StepTrace(batch=trace.batch, events=tuple(events), marks=marks)


def _steps(trace: StepTrace) -> list[tuple[int, int]]:
    """Where each step's first forward pass begins, and where its update does, or it ends."""
    begun: dict[str, int] = {}
    ended: dict[str, int] = {}
    for name, at in trace.marks:
        step, _, phase = name.partition(":")
        if phase == "forward":
            begun.setdefault(step, at)
        elif phase == "update":
            ended[step] = at
    starts = [*begun.values(), len(trace.events)]
    return [
        (begin, ended.get(step, following))
        for (step, begin), following in zip(begun.items(), starts[1:], strict=True)
    ]
