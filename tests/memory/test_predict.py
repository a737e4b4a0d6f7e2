"""Scales: footprints asked for once, overheads by card, and what the book makes of them."""

from dataclasses import replace

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.memory.predict import (
    installed_versions,
    is_unpredictable,
    scales_of,
    workload_text,
)
from orchestrator.plan.choose import choose
from orchestrator.plan.correct import Confidence, Peak
from orchestrator.plan.overheads import overheads
from tests.plan.hand_made import GIB, MIB, Lines, job, target


def test_a_footprint_is_asked_for_once() -> None:
    lines = Lines()
    scales = scales_of(lines, ())
    for budget in (2 * GIB, 4 * GIB, 8 * GIB):
        choose(job(), target(), budget, scales)
    assert len(lines.asked) == len(set(lines.asked))


def test_what_a_card_takes_beside_the_step_is_in_the_need() -> None:
    scales = scales_of(Lines(), ())
    demand = Lines().demand(job().train, 8)
    need = scales.need(job().train, demand, target())
    assert need == overheads("Ampere").needed_bytes(demand)
    turing = replace(target(), architecture="Turing")
    assert scales.need(job().train, demand, turing) > need - 200 * MIB
    gang = replace(job().train, world_size=2)
    assert scales.need(gang, demand, target()) > need


def test_an_emulated_card_holds_the_live_tensors_and_no_context() -> None:
    emulated = replace(target(), is_emulated=True)
    demand = Lines().demand(job().train, 8)
    need = scales_of(Lines(), ()).need(job().train, demand, emulated)
    assert demand.allocated_bytes <= need <= demand.allocated_bytes * 1.1


def test_a_measured_peak_replaces_the_prediction_of_its_card_alone() -> None:
    asked = job(8, precision="fp16")
    train = asked.train
    measured = Peak(
        trainer=train.trainer,
        model=train.model,
        imgsz=train.imgsz,
        micro_batch=8,
        precision="fp16",
        optimizer="AdamW",
        card="card",
        is_emulated=False,
        versions=installed_versions(),
        peak_bytes=2 * Lines().demand(train, 8).allocated_bytes,
        steps=50,
        workload=workload_text(train),
    )
    plain = choose(asked, target(24), 20 * GIB, scales_of(Lines(), ()))
    twice = choose(asked, target(24), 20 * GIB, scales_of(Lines(), [measured]))
    assert twice.correction.confidence is Confidence.MEASURED
    assert twice.train.allocated_bytes == 2 * plain.train.allocated_bytes
    assert twice.traced_bytes == plain.traced_bytes
    assert twice.need_bytes > plain.need_bytes
    emulated = replace(measured, is_emulated=True)
    same = choose(asked, target(24), 20 * GIB, scales_of(Lines(), [emulated]))
    assert same.need_bytes == plain.need_bytes


@pytest.mark.parametrize(
    ("code", "expected"), [("E2120", True), ("E2130", True), ("E2131", True), ("E3201", False)]
)
def test_a_model_that_cannot_be_traced_is_told_from_a_mistake(code: str, expected: bool) -> None:
    assert is_unpredictable(OrchestratorError("x", code=code)) is expected


def test_on_an_emulated_card_a_checkpoint_may_be_what_decides() -> None:
    emulated = replace(target(), is_emulated=True)

    class Weighty(Lines):
        def footprint(self, workload, sizes):  # type: ignore[no-untyped-def] # as in Lines
            found = super().footprint(workload, sizes)
            return replace(found, parts={"weights": GIB, "optimizer": 2 * GIB, "ema": GIB})

    demand = Weighty(fixed=5 * GIB, slope=MIB).demand(job().train, 1)
    need = scales_of(Weighty(fixed=5 * GIB, slope=MIB), ()).need(job().train, demand, emulated)
    assert need >= 8 * GIB  # the state and its copy
    light = Lines(fixed=8 * MIB, slope=GIB)
    few = light.demand(job().train, 1)
    assert scales_of(light, ()).need(job().train, few, emulated) < few.allocated_bytes * 1.06
