"""Ranks that share a model out: when it is offered, what is planned with it, what is submitted."""

from dataclasses import replace

import pytest

from orchestrator.client.fitting import fit_run
from orchestrator.client.plans import CardPlan, Planner, ladder_of
from orchestrator.config.types import Fitting
from orchestrator.errors import PlanError
from orchestrator.messages import GivenUp
from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Ladder
from orchestrator.plan.job import Facts, job_of
from orchestrator.plan.ladder import Rung, climbed, settings_after
from orchestrator.plan.sharded import place_of, refusal, sharded
from orchestrator.plan.workload import OptimizerState
from orchestrator.types import RunId, RunSpec, Scalar, TrainSettings
from tests.plan.hand_made import GIB, MIB, Lines

FACTS = Facts(num_classes=3)
HEAVY = Lines(fixed=9 * GIB, slope=20 * MIB)  # half of it on a host is 4.5, half on each rank too
CARD = Target(name="RTX 4070", memory_bytes=12 * GIB, architecture="Ada", compute_capability=(8, 9))
SMALL = replace(CARD, name="RTX 3050", memory_bytes=4 * GIB)


def spec(*, gpus: int = 2, batch: int = 16, fewest: int | None = None, trainer: str = "timm",
         optimizer: str = "AdamW", **options: Scalar) -> RunSpec:  # fmt: skip
    return RunSpec(
        run_id=RunId("r"),
        project="p",
        trainer=trainer,
        settings=TrainSettings(
            model="timm/vit_large_patch16_224",
            data="d",
            imgsz=224,
            epochs=1,
            amp="bf16",
            optimizer=optimizer,
            options=options,
        ),
        effective_batch=batch,
        folder="/runs/p/r",
        num_gpus=gpus,
        min_gpus=fewest,
    )


def planned(run: RunSpec, target: Target, *rungs: Rung, lines: Lines = HEAVY) -> CardPlan:
    fitting = Fitting(ladder=Ladder(rungs=rungs)) if rungs else Fitting()
    return Planner(lines).plan(run, FACTS, fitting, target)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (spec(gpus=1), "one GPU has nobody to share with"),
        (spec(trainer="yolo"), "keeps a whole model"),
        (spec(gpus=4, fewest=1), "may shrink to 1"),
        (spec(batch=7), "batch 7 does not divide among 2 GPUs"),
        (spec(optimizer="lamb"), "lamb needs whole tensors"),
        (spec(compile=True), "compiled"),
        (spec(auto="cache, compile"), "compiled"),
        (spec(ddp_sync_bn=True), "BatchNorm over all GPUs"),
        (spec(ddp_compression="bf16"), "do not travel as bf16"),
    ],
)
def test_where_it_cannot_be_the_plan_says_why(run: RunSpec, why: str) -> None:
    assert why in refusal(run)
    assert Rung.SHARD not in ladder_of(run, Fitting()).rungs
    plan = planned(run, SMALL)
    assert plan.fits is False
    assert why in plan.refused["shard"]
    assert "shard" not in plan.ladder
    assert planned(run, SMALL, Rung.CUT).refused == {}  # nobody asked for it


def test_a_gang_whose_model_no_card_holds_shares_it_out() -> None:
    run = spec(fewest=2)
    assert refusal(run) == ""
    on_one = planned(run, SMALL, Rung.CUT, Rung.CHECKPOINTING, Rung.OPTIMIZER_HOST)
    assert on_one.fits is False
    plan = planned(run, SMALL)
    assert plan.fits
    assert "shard" in plan.rungs
    assert plan.refused == {}
    assert plan.savings["shard"] > 0
    assert "shard: none: the same numbers; ranks send half as much again" in plan.reason


def test_cheaper_rungs_go_before_it_and_what_it_replaces_is_not_given_up() -> None:
    by_host = planned(spec(), replace(CARD, memory_bytes=10 * GIB))
    assert by_host.fits
    assert "optimizer_host" in by_host.rungs
    assert "shard" not in by_host.rungs
    sharing = planned(spec(), SMALL)
    assert not {"optimizer_host", "optimizer_8bit"} & set(sharing.rungs)
    first = planned(spec(), replace(SMALL, memory_bytes=8 * GIB), Rung.SHARD, Rung.OPTIMIZER_HOST)
    assert first.fits
    assert first.rungs == ("shard",)


def test_parts_lie_on_the_card_where_that_is_enough_and_else_on_the_host() -> None:
    job = job_of(spec(), FACTS, CARD)
    found = list(climbed(Rung.SHARD, job.train, CARD))
    assert [place_of(load) for load in found] == ["card", "host"]
    emulated = list(climbed(Rung.SHARD, job.train, replace(CARD, is_emulated=True)))
    assert [place_of(load) for load in emulated] == ["card"]  # its host's memory is its own
    on_host = replace(job.train, optimizer_state=OptimizerState.HOST)
    assert sharded(on_host, "card").optimizer_state is OptimizerState.CARD
    for rung in (Rung.SHARD, Rung.OPTIMIZER_HOST, Rung.OPTIMIZER_8BIT):
        assert list(climbed(rung, found[0], CARD)) == []
    alone = job_of(spec(gpus=1), FACTS, CARD)
    assert list(climbed(Rung.SHARD, alone.train, CARD)) == []
    only = Fitting(ladder=Ladder(rungs=(Rung.CUT, Rung.SHARD)))
    places = {
        gib: fit_run(spec(), FACTS, only, [replace(SMALL, memory_bytes=gib * GIB)],
                     Planner(HEAVY)).spec.settings.options.get("ddp_shard")
        for gib in (20, 8, 4)
    }  # fmt: skip
    assert places == {20: None, 8: "card", 4: "host"}


def test_what_is_submitted_says_where_and_every_card_is_planned_like_that() -> None:
    fitted = fit_run(spec(), FACTS, Fitting(), [SMALL], Planner(HEAVY))
    options = fitted.spec.settings.options
    assert options["ddp_shard"] in ("card", "host")
    assert "optimizer_state" not in options
    assert fitted.spec.memory_bytes is not None
    assert "shard" in fitted.said
    again = planned(fitted.spec, SMALL)  # nothing more is given up for what is given up
    assert again.fits
    assert "shard" not in again.rungs
    with pytest.raises(PlanError, match="fits on no card"):
        fit_run(spec(batch=7), FACTS, Fitting(), [SMALL], Planner(HEAVY))


def test_an_attempt_that_ran_out_of_memory_is_followed_by_one_that_shares() -> None:
    given = GivenUp.parse("shard=card")
    settings = settings_after(spec(optimizer_state="host").settings, [given])
    assert settings.options == {"ddp_shard": "card", "optimizer_state": "card"}
