"""What is submitted when a run is planned for the cards that there are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.client.access import fingerprint
from orchestrator.client.fitting import fit_run, kinds_of
from orchestrator.client.plans import Planner, ladder_of
from orchestrator.config.types import Fitting
from orchestrator.device.catalogue import emulated_cards
from orchestrator.errors import ConfigError, OrchestratorError, PlanError
from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Ladder
from orchestrator.plan.footprint import Footprint
from orchestrator.plan.job import Facts
from orchestrator.plan.ladder import Rung
from orchestrator.plan.workload import Labels, Workload
from orchestrator.trainer.options_memory import can_8bit
from orchestrator.types import Card, RunId, RunSpec, TrainSettings
from tests.plan.hand_made import GIB, MIB, Lines

FACTS = Facts(
    num_classes=3,
    task="detect",
    train_labels=Labels(most=20, mean=5),
    validation_labels=Labels(most=20, mean=5),
)
FREE = Fitting()


def spec(batch: int = 16, **changes: object) -> RunSpec:
    settings = TrainSettings(model="yolo11l.yaml", data="d", imgsz=640, epochs=1, amp="fp32")
    run = RunSpec(
        run_id=RunId("r"),
        project="p",
        trainer="yolo",
        settings=settings,
        effective_batch=batch,
        folder="/runs/p/r",
    )
    return replace(run, **changes)  # type: ignore[arg-type] # fields by name


def cards(*names: str) -> tuple[Card, ...]:
    return tuple(replace(card, is_emulated=False) for card in emulated_cards(list(names)))


def kinds(*names: str) -> Sequence[Target]:
    return kinds_of(cards(*names), ())


def planner(lines: Lines | None = None) -> Planner:
    return Planner(lines or Lines(fixed=GIB, slope=200 * MIB))


def test_kinds_are_distinct_allowed_and_the_smallest_first() -> None:
    every = kinds("RTX 4090", "RTX 2060 6GB", "RTX 4090")
    assert [target.name for target in every] == ["RTX 2060", "RTX 4090"]
    assert every[0].architecture == "Turing"
    allowed = kinds_of(cards("RTX 4090", "RTX 2060"), ("rtx4090",))
    assert [target.name for target in allowed] == ["RTX 4090"]


def test_a_run_asks_for_its_need_and_not_for_the_whole_card() -> None:
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 4090"), planner())
    (plan,) = fitted.plans
    assert fitted.spec.micro_batch is None
    assert fitted.spec.memory_bytes == plan.share_bytes
    assert plan.predicted_peak_bytes is not None
    assert plan.predicted_peak_bytes < (fitted.spec.memory_bytes or 0) < 24 * GIB
    assert fitted.spec.effective_batch == 16
    assert "16 x 1" in fitted.said


def test_the_share_is_enough_on_every_card_where_the_scheduler_may_put_it() -> None:
    fitted = fit_run(spec(64), FACTS, FREE, kinds("RTX 2060", "RTX 3060", "RTX 4090"), planner())
    for plan in fitted.plans:
        assert plan.fits
        assert plan.micro_batch == fitted.plans[0].micro_batch
        assert plan.predicted_peak_bytes is not None
        assert plan.predicted_peak_bytes <= (fitted.spec.memory_bytes or 0)
    taken = {plan.gpu for plan in fitted.plans}
    for target in kinds("RTX 2060", "RTX 3060", "RTX 4090"):
        is_eligible = target.memory_bytes >= (fitted.spec.memory_bytes or 0)
        assert (not is_eligible) or target.name in taken


def test_a_card_that_cuts_too_fine_is_left_to_others() -> None:
    lines = Lines(fixed=2 * GIB, slope=500 * MIB)  # 2 samples on 6 GB, all 16 on 24 GB
    small, both = kinds("RTX 2060"), kinds("RTX 2060", "RTX 4090")
    alone = fit_run(spec(), FACTS, FREE, small, planner(lines))
    assert (alone.spec.micro_batch or 16) < 8
    beside = fit_run(spec(), FACTS, FREE, both, planner(lines))
    assert (beside.spec.micro_batch or 16) >= 8
    assert [plan.gpu for plan in beside.plans] == ["RTX 4090"]
    assert (beside.spec.memory_bytes or 0) > 6 * GIB


def test_memory_given_by_hand_is_the_budget_and_stays() -> None:
    asked = spec(memory_bytes=4 * GIB)
    fitted = fit_run(asked, FACTS, FREE, kinds("RTX 4090"), planner())
    assert fitted.spec.memory_bytes == 4 * GIB
    assert fitted.spec.micro_batch is not None
    assert all((plan.predicted_peak_bytes or 0) <= 4 * GIB for plan in fitted.plans)


def test_a_micro_batch_given_by_hand_is_never_exceeded() -> None:
    fitted = fit_run(spec(micro_batch=5), FACTS, FREE, kinds("RTX 4090"), planner())
    assert fitted.spec.micro_batch == 4  # 16 in four pieces of 4, not 5 + 5 + 5 + 1
    with pytest.raises(PlanError) as caught:
        fit_run(spec(micro_batch=17), FACTS, FREE, kinds("RTX 4090"), planner())
    assert caught.value.code == "E2021"


def test_half_precision_goes_into_the_spec_when_it_is_what_makes_it_fit() -> None:
    lines = Lines(fixed=100 * MIB, slope=8 * GIB)
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 3060 12GB"), planner(lines))
    assert fitted.spec.settings.amp == "fp32"  # one sample fits in fp32
    lines = Lines(fixed=100 * MIB, slope=14 * GIB)
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 3060 12GB"), planner(lines))
    assert fitted.spec.settings.amp == "fp16"
    assert "amp" in fitted.said


def test_a_card_without_half_precision_is_not_among_the_types_that_are_asked_for() -> None:
    lines = Lines(fixed=100 * MIB, slope=15 * GIB)
    both = kinds("P100 PCIe 16GB", "RTX 4060 Ti 16GB")
    fitted = fit_run(spec(), FACTS, FREE, both, planner(lines))
    assert [plan.gpu for plan in fitted.plans] == ["RTX 4060 Ti 16GB"]
    is_out = (fitted.spec.memory_bytes or 0) > 16 * GIB
    assert is_out or fitted.spec.gpu_types == ("RTX 4060 Ti 16GB",)


def test_what_fits_nowhere_is_refused_with_what_would_fit() -> None:
    lines = Lines(fixed=GIB, slope=30 * GIB)
    with pytest.raises(PlanError) as caught:
        fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(lines))
    assert caught.value.code == "E2022"
    assert caught.value.exit_code == 5
    fixes = " ".join(caught.value.fix)
    assert "imgsz=" in fixes
    assert "a card with" in fixes
    size = int(next(f for f in caught.value.fix if f.startswith("imgsz=")).split()[0][6:])
    smaller = replace(spec(), settings=replace(spec().settings, imgsz=size))
    assert fit_run(smaller, FACTS, FREE, kinds("RTX 2060"), planner(lines)).plans


def test_checkpointing_goes_into_the_spec_when_it_is_what_makes_it_fit() -> None:
    lines = Lines(fixed=GIB, slope=8 * GIB)  # in fp32; half of 6 tenths of it fits
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(lines))
    assert fitted.spec.settings.options["grad_checkpointing"] is True
    assert "checkpointing" in fitted.plans[0].rungs
    assert '"is_checkpointed":true' in fitted.plans[0].workload
    asked = replace(spec(), settings=replace(spec().settings, options={"grad_checkpointing": True}))
    by_hand = fit_run(asked, FACTS, FREE, kinds("RTX 2060"), planner(lines))
    assert "checkpointing" not in by_hand.plans[0].rungs  # nothing was given up: it was asked for
    assert by_hand.spec.settings.options == {"grad_checkpointing": True}


def test_the_optimizers_state_goes_to_the_host_when_that_is_what_makes_it_fit() -> None:
    lines = Lines(fixed=6 * GIB, slope=100 * MIB)
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(lines))
    assert fitted.spec.settings.options["optimizer_state"] == "host"
    assert "optimizer_host" in fitted.plans[0].rungs
    assert "optimizer_8bit" not in fitted.plans[0].rungs


@pytest.mark.skipif(can_8bit(), reason="bitsandbytes is installed")
def test_eight_bits_are_not_planned_with_where_their_library_is_not_installed() -> None:
    lines = Lines(fixed=6 * GIB, slope=10 * MIB)  # three quarters of it would fit
    ladder = Ladder(rungs=(Rung.CUT, Rung.AMP, Rung.OPTIMIZER_8BIT))
    with pytest.raises(PlanError):
        fit_run(spec(), FACTS, Fitting(ladder=ladder), kinds("RTX 2060"), planner(lines))


def test_batch_norm_is_only_said_to_see_the_pieces_of_a_model_that_has_it() -> None:
    for statistics, words in ((4096, "BatchNorm sees the micro-batch"), (0, "has no BatchNorm")):
        lines = Lines(fixed=GIB, slope=500 * MIB, statistics=statistics)
        (plan,) = fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(lines)).plans
        assert "cut" in plan.rungs
        assert words in plan.reason


def test_a_plan_names_what_may_be_given_up_in_the_order_of_the_config() -> None:
    ladder = Ladder(rungs=(Rung.CHECKPOINTING, Rung.CUT))
    fitting = Fitting(ladder=ladder)
    (plan,) = fit_run(spec(), FACTS, fitting, kinds("RTX 4090"), planner(Lines())).plans
    assert plan.ladder == ("checkpointing", "cut")


def test_rungs_of_a_trainer_that_is_not_known_are_not_planned_with() -> None:
    assert ladder_of(spec(trainer="fake"), FREE).rungs == ()


class Refusing(Lines):
    """A predictor of a model that has no gradient checkpointing."""

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        if any(workload.is_checkpointed for workload, _ in asked):
            raise ConfigError("no checkpointing", code="E1122")
        return super().footprints(asked)


def test_a_rung_that_a_model_does_not_have_is_passed_over() -> None:
    lines = Refusing(fixed=5 * GIB, slope=100 * MIB)
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(lines))
    assert set(fitted.plans[0].rungs) - {"cut"} == {"amp", "optimizer_host"}
    asked = replace(spec(), settings=replace(spec().settings, options={"grad_checkpointing": True}))
    with pytest.raises(ConfigError, match="no checkpointing"):
        fit_run(asked, FACTS, FREE, kinds("RTX 2060"), planner(lines))


class Unknown(Lines):
    """A predictor that can predict nothing."""

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        raise OrchestratorError("an LSTM", code="E2130", why=("cudnn_rnn",))


def test_what_cannot_be_predicted_takes_a_whole_card_and_says_so() -> None:
    fitted = fit_run(spec(), FACTS, FREE, kinds("RTX 2060"), planner(Unknown()))
    assert fitted.spec == spec()
    assert fitted.plans == ()
    assert "unknown" in fitted.said
    assert "whole card" in fitted.said
    told = planner(Unknown()).plan(spec(), FACTS, FREE, kinds("RTX 2060")[0])
    assert (told.fits, told.micro_batch, told.confidence) == (None, None, "unknown")


def test_without_known_cards_nothing_changes() -> None:
    assert fit_run(spec(), FACTS, FREE, (), planner()).spec == spec()


def test_a_full_card_is_passed_over_and_only_full_cards_are_an_error() -> None:
    full = replace(kinds("RTX 2060")[0], foreign_bytes=6 * GIB)
    free = kinds("RTX 4090")[0]
    fitted = fit_run(spec(), FACTS, FREE, (full, free), planner())
    assert [plan.gpu for plan in fitted.plans] == ["RTX 4090"]
    with pytest.raises(PlanError) as caught:
        fit_run(spec(), FACTS, FREE, (full,), planner())
    assert caught.value.code == "E2020"


def test_a_plan_does_not_change_which_run_a_config_is() -> None:
    asked = spec(folder=str(Path("/runs/p/r")))
    fitted = fit_run(asked, FACTS, FREE, kinds("RTX 2060"), planner())
    planned = replace(fitted.spec, asked=fingerprint(asked))
    assert planned.micro_batch != asked.micro_batch
    assert fingerprint(planned) == fingerprint(asked)
