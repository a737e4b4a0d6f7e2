"""Traces of steps that nobody performed: layers of given sizes, forward, backward and update."""

from collections.abc import Sequence

from orchestrator.memory.events import Birth, Event, StepTrace

__all__ = ["Layer", "made_trace"]

Layer = tuple[int, int, int]
"""Bytes of the weights, of the output per sample, and of scratch per sample."""


class _Record:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.count = 0

    def born(self, num_bytes: int, part: str, module: str = "") -> int:
        self.events.append(Birth(self.count, num_bytes, part, module, "op"))
        self.count += 1
        return self.count - 1

    def died(self, *storages: int) -> None:
        self.events.extend(storages)


def made_trace(layers: Sequence[Layer], batch: int, *, labels: int = 0) -> StepTrace:
    """Two steps of AdamW. `labels` adds a loss that takes 4000 bytes a label and sample."""
    record = _Record()
    marks = [("build", 0)]
    names = [f"layer{number}" for number in range(len(layers))]
    for (weights, _, _), name in zip(layers, names, strict=True):
        record.born(weights, "weights", name)
    for step in (1, 2):
        marks.append((f"step{step}:forward", len(record.events)))
        kept = [record.born(1000 * batch, "data")]
        for (_, output, scratch), name in zip(layers, names, strict=True):
            temporary = record.born(scratch * batch, "activations", name)
            kept.append(record.born(output * batch, "activations", name))
            record.died(temporary)
        loss = record.born(4 + 4000 * labels * batch, "loss", "criterion")
        marks.append((f"step{step}:backward", len(record.events)))
        gradients = []
        for weights, output, _ in reversed(layers):
            flowing = record.born(output * batch, "activations")
            gradients.append(record.born(weights, "gradients"))
            record.died(kept.pop(), flowing)
        record.died(loss, *kept)
        marks.append((f"step{step}:update", len(record.events)))
        if step == 1:
            for (weights, _, _), name in zip(layers, names, strict=True):
                record.born(weights, "optimizer", name)
                record.born(weights, "optimizer", name)
        record.died(*gradients)
    return StepTrace(batch=batch, events=record.events, marks=marks)
