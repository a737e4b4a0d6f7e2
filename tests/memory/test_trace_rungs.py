"""What a run gives up to fit is traced as it is trained: predicted peaks are those counted."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from jobs.bench_memory_reality import peak_of
from jobs.bench_rungs import took
from orchestrator.memory.events import Birth
from orchestrator.memory.trace import steps_of, trace_step
from orchestrator.plan.workload import OptimizerState, Workload

PLAIN = Workload(
    trainer="timm",
    model="test_vit",
    imgsz=160,
    num_classes=10,
    precision="fp32",
    has_flash_attention=False,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"is_checkpointed": True},
        {"optimizer_state": OptimizerState.HOST},
        {"is_checkpointed": True, "optimizer_state": OptimizerState.HOST, "is_cut": True},
    ],
)
def test_the_predicted_peak_is_the_one_that_is_counted(change: dict[str, Any]) -> None:
    workload = replace(PLAIN, **change)
    counted, _ = took(steps_of(workload), 4, 2, is_counted=True)
    predicted = peak_of(trace_step(workload, 4, device="cpu"))
    assert predicted == pytest.approx(counted, rel=0.01)


def test_room_for_an_update_is_sought_in_the_trace_as_well() -> None:
    """All weights at once and the largest tensor, on a card; first with the optimizer's state."""
    load = replace(PLAIN, optimizer="AdamW")
    with_room, without = trace_step(load, 4), trace_step(replace(load, is_governed=False), 4)
    own = {birth.num_bytes for birth in without.events if isinstance(birth, Birth)}
    sought = [
        birth.num_bytes
        for birth in with_room.events
        if isinstance(birth, Birth)
        and birth.op == "empty.memory_format"
        and birth.num_bytes not in own
    ]
    sizes = [
        -(-p.numel() * 4 // 512) * 512
        for p in timm.create_model("test_vit", num_classes=10).parameters()
    ]
    update = sum(sizes) + max(sizes)
    assert sought == [2 * sum(sizes) + 512 * len(sizes), update, update]
