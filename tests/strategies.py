"""Hypothesis strategies for what the core takes in: cards, nodes, runs; and plain builders."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from orchestrator.types import (
    Card,
    DeviceKind,
    Node,
    NodeId,
    RetryBudget,
    RunId,
    RunSpec,
    Scalar,
    TrainSettings,
)

__all__ = ["GIB", "KINDS", "LABELS", "make_node", "make_spec", "nodes", "specs"]

GIB = 2**30
KINDS = (("RTX 2060", 6 * GIB), ("NVIDIA GeForce RTX 4090", 24 * GIB), ("A100", 40 * GIB))


def make_node(
    name: str,
    *cards: tuple[str, int],
    foreign_bytes: int = 0,
    num_cpus: float = 8.0,
    ram_gib: float = 0,
    labels: Mapping[str, str] | None = None,
) -> Node:
    """A node with cards given as (name, bytes)."""
    return Node(
        node_id=NodeId(name),
        cards=tuple(
            Card(index=i, name=kind, memory_bytes=size, foreign_bytes=foreign_bytes)
            for i, (kind, size) in enumerate(cards)
        ),
        num_cpus=num_cpus,
        host_bytes=int(ram_gib * GIB),
        labels=labels or {},
    )


def make_spec(
    name: str = "r",
    *,
    num_gpus: int = 1,
    min_gpus: int | None = None,
    gib: float | None = None,
    priority: int = 50,
    batch: int | None = None,
    micro_batch: int | None = None,
    epochs: int = 3,
    gpu_types: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    num_cpus: float = 0.0,
    ram_gib: float = 0,
    device: DeviceKind = DeviceKind.GPU,
    retry: RetryBudget | None = None,
    max_duration_seconds: float | None = None,
    options: Mapping[str, Scalar] | None = None,
    after: tuple[str, ...] = (),
    weights_from: str | None = None,
    queue: str = "default",
    patience: int = 100,
) -> RunSpec:
    """A run of the fake trainer."""
    return RunSpec(
        run_id=RunId(name),
        project="p",
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=32,
            epochs=epochs,
            patience=patience,
            options=options or {},
        ),
        effective_batch=batch or 8 * num_gpus,
        folder=f"/runs/{name}",
        device=device,
        num_gpus=num_gpus,
        min_gpus=min_gpus,
        memory_bytes=None if gib is None else int(gib * GIB),
        micro_batch=micro_batch,
        gpu_types=gpu_types,
        labels=labels or {},
        num_cpus=num_cpus,
        host_bytes=int(ram_gib * GIB),
        queue=queue,
        priority=priority,
        retry=retry or RetryBudget(),
        max_duration_seconds=max_duration_seconds,
        after=tuple(RunId(other) for other in after),
        weights_from=None if weights_from is None else RunId(weights_from),
    )


LABELS = st.sampled_from(
    ({}, {"zone": "a"}, {"zone": "b"}, {"zone": "b", "disk": "slow"}, {"disk": "fast"})
)
SELECTORS = st.sampled_from(
    (*({},) * 6, {"zone": "a"}, {"zone": "!a"}, {"zone": "in(a,b)"}, {"disk": "!in(fast,slow)"})
)


@st.composite
def nodes(draw: st.DrawFn, name: str) -> Node:
    """A node of up to four cards, perhaps of two kinds, perhaps none."""
    cards = draw(st.lists(st.sampled_from(KINDS), max_size=4))
    foreign = draw(st.sampled_from((0, 0, GIB // 4, 3 * GIB)))
    return make_node(
        name,
        *cards,
        foreign_bytes=foreign,
        num_cpus=draw(st.sampled_from((2, 8))),
        ram_gib=draw(st.sampled_from((0, 0, 7, 16))),
        labels=draw(LABELS),
    )


@st.composite
def specs(draw: st.DrawFn, name: str, after: Sequence[str] = ()) -> RunSpec:
    """A run: one card or several, whole or shared, any priority; sometimes on the CPU.

    Now and then it comes after some of the runs `after`, or starts from the weights of one.
    """
    before = st.lists(st.sampled_from(after), max_size=2) if after else st.just([])
    earlier = tuple(draw(before)) if draw(st.integers(0, 2)) == 0 else ()
    source = draw(st.sampled_from((None, *after))) if draw(st.integers(0, 4)) == 0 else None
    if draw(st.integers(0, 9)) == 0:
        return make_spec(
            name,
            device=DeviceKind.CPU,
            num_cpus=draw(st.sampled_from((1.0, 4.0))),
            ram_gib=draw(st.sampled_from((0, 3, 10))),
            labels=draw(st.sampled_from(({}, {"zone": "a"}))),
            after=earlier,
            weights_from=source,
        )
    num_gpus = draw(st.sampled_from((1, 1, 1, 2, 3, 6)))
    return make_spec(
        name,
        num_gpus=num_gpus,
        min_gpus=draw(st.sampled_from((None, 1))),
        gib=draw(st.sampled_from((None, None, 2, 5, 11, 30))),
        priority=draw(st.sampled_from((10, 50, 50, 90))),
        batch=num_gpus * draw(st.integers(1, 9)),
        micro_batch=draw(st.sampled_from((None, 1, 4))),
        gpu_types=draw(st.sampled_from(((), (), ("rtx4090",), ("A100", "RTX 2060")))),
        labels=draw(SELECTORS),
        num_cpus=draw(st.sampled_from((0.0, 0.0, 1.0))),
        ram_gib=draw(st.sampled_from((0, 0, 2.5, 6))),
        retry=RetryBudget(user_errors=draw(st.integers(0, 2)), losses_without_progress=3),
        max_duration_seconds=draw(st.sampled_from((None, None, 500.0))),
        after=earlier,
        weights_from=source,
    )
