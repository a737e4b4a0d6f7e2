"""Plans for people: every project of a config on every card that was asked about, as records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.client.reasons import reason_of
from orchestrator.config.types import Fitting
from orchestrator.errors import OrchestratorError
from orchestrator.memory.predict import (
    Predictor,
    is_unpredictable,
    overheads_on,
    scales_of,
    workload_text,
)
from orchestrator.plan.budget import Target, budget_of, share_of
from orchestrator.plan.choose import Choice, Ladder, Scales, choose, known_sizes, need_of
from orchestrator.plan.correct import Confidence, Peak
from orchestrator.plan.job import Facts, Job, job_of, validation_size
from orchestrator.plan.ladder import REFUSALS, Rung, carried_out, climbed
from orchestrator.plan.sharded import WHOLE, place_of, refusal, sharded
from orchestrator.plan.workload import StepKind, Workload
from orchestrator.trainer.options_memory import can_8bit
from orchestrator.types import Bytes, RunSpec

__all__ = ["CardPlan", "Planner", "ladder_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """One project on one kind of card, as `--json` prints it.

    `predicted_peak_bytes` is what the card must have free at the peak of training and validation,
    its context included; it fits when that is at most `budget_bytes`. `share_bytes` is what the
    scheduler is asked for. Figures are None where nothing could be predicted, and then `fits` is.
    """

    project: str
    model: str
    imgsz: int
    gpu: str
    gpu_memory_bytes: Bytes
    effective_batch: int
    world_size: int
    micro_batch: int | None
    accumulation_steps: int | None
    precision: str
    predicted_peak_bytes: Bytes | None
    budget_bytes: Bytes
    fits: bool | None
    rungs: tuple[str, ...]
    confidence: str
    reason: str
    optimizer: str = ""
    is_emulated: bool = False
    share_bytes: Bytes | None = None
    allocated_bytes: Bytes | None = None
    reserved_bytes: Bytes | None = None
    traced_bytes: Bytes | None = None
    validation_bytes: Bytes | None = None
    likely_bytes: Bytes | None = None  # what nvidia-smi will probably show
    parts: Mapping[str, Bytes] = field(default_factory=dict)
    modules: Mapping[str, Bytes] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()
    workload: str = ""
    ladder: tuple[str, ...] = ()  # what the run may give up, also while it trains, in this order
    stage: str = ""  # such as "1/3 small", where the project has stages
    num_folds: int = 0  # runs of this plan, one a fold; 0 where the project has no folds
    savings: Mapping[str, Bytes] = field(default_factory=dict)  # of a card, by rung
    refused: Mapping[str, str] = field(default_factory=dict)  # rungs it cannot take, and why

    @property
    def name(self) -> str:
        """The project, and which stage of it."""
        return f"{self.project} stage {self.stage}" if self.stage else self.project


class Planner:
    """Plans runs on cards with one predictor and one book.

    Args:
        predictor: Says what steps demand.
        book: Measured peaks.
        has_parts: Whether records say what holds the bytes, at the cost of reading a trace each.
    """

    def __init__(
        self, predictor: Predictor, book: Sequence[Peak] = (), *, has_parts: bool = False
    ) -> None:
        self._predictor = predictor
        self._has_parts = has_parts
        self._warm: set[Workload] = set()
        self.scales: Scales = scales_of(predictor, book)

    def plan(self, spec: RunSpec, facts: Facts, fitting: Fitting, target: Target) -> CardPlan:
        """Plan one run on one card.

        Raises:
            PlanError: E2020, the card has no memory to plan with; E2021, a wrong micro-batch.
        """
        target = _limited(spec, target)
        job = job_of(spec, facts, target)
        budget = budget_of(target, fitting.headroom)
        try:
            choice = self.choose(job, target, budget, ladder_of(spec, fitting))
        except OrchestratorError as error:
            if not is_unpredictable(error):
                raise
            return _unknown(spec, job, target, budget, error)
        return self.told(spec, choice, target, fitting)

    def choose(self, job: Job, target: Target, budget: Bytes, ladder: Ladder) -> Choice:
        """The choice of the plan, without the rungs that its model or optimizer does not have.

        Raises:
            OrchestratorError: As the predictor does.
        """
        self.warm([job])
        while True:
            try:
                return choose(job, target, budget, self.scales, ladder)
            except OrchestratorError as error:
                refused = REFUSALS.get(error.code)
                if refused not in ladder.rungs:
                    raise
            ladder = replace(ladder, rungs=tuple(r for r in ladder.rungs if r is not refused))

    def at(
        self, spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, choice: Choice
    ) -> CardPlan:
        """What another choice's cut and rungs mean on this card."""
        target = _limited(spec, target)
        job = job_of(spec, facts, target)
        job = replace(
            job,
            train=_as_given(job.train, choice, target),
            validate=_as_given(job.validate, choice, target),
        )
        budget = budget_of(target, fitting.headroom)
        found = need_of(job, choice.batch.micro_batch, target, budget, self.scales)
        return self.told(spec, replace(found, rungs=choice.rungs), target, fitting)

    def warm(self, jobs: Sequence[Job], *, is_cut: bool = False) -> None:
        """Have what every plan of the jobs begins with predicted together, if it is not yet.

        Args:
            jobs: What will be planned.
            is_cut: Whether the plans begin with a step that is cut, not with a whole one.

        Raises:
            OrchestratorError: As the predictor does.
        """
        wanted = {
            workload: known_sizes(job, workload.kind, is_cut=is_cut)
            for job in jobs
            for workload in (replace(job.train, is_cut=is_cut), job.validate)
            if workload not in self._warm
        }
        if wanted:
            self._predictor.footprints(list(wanted.items()))
            self._warm.update(wanted)

    def told(self, spec: RunSpec, choice: Choice, target: Target, fitting: Fitting) -> CardPlan:
        """A choice as a record."""
        train = choice.job.train
        parts, modules = self._breakdown(choice, target)
        outside = overheads_on(choice.workload, target)
        shown = max(choice.train, choice.validation, key=lambda demand: demand.reserved_bytes)
        is_emulated = target.is_emulated
        share = target.limit_bytes or share_of(choice.need_bytes, target, fitting.headroom)
        return CardPlan(
            project=spec.project,
            model=spec.settings.model,
            imgsz=train.imgsz,
            gpu=target.name,
            gpu_memory_bytes=target.memory_bytes,
            effective_batch=choice.batch.effective_batch,
            world_size=choice.batch.world_size,
            micro_batch=choice.batch.micro_batch,
            accumulation_steps=choice.batch.accumulation_steps,
            precision=train.precision,
            predicted_peak_bytes=choice.need_bytes,
            budget_bytes=choice.budget_bytes,
            fits=choice.fits,
            rungs=tuple(rung.value for rung in choice.rungs),
            confidence=choice.correction.confidence.value,
            reason=reason_of(choice, has_norm=self._has_norm(choice)),
            optimizer=train.optimizer,
            is_emulated=is_emulated,
            share_bytes=share if choice.fits else None,
            allocated_bytes=max(choice.train.allocated_bytes, choice.validation.allocated_bytes),
            reserved_bytes=shown.reserved_bytes,
            traced_bytes=choice.traced_bytes,
            validation_bytes=choice.validation.allocated_bytes,
            likely_bytes=None if is_emulated else outside.likely_bytes(shown),
            parts=parts,
            modules=modules,
            workload=workload_text(choice.workload),
            ladder=tuple(rung.value for rung in ladder_of(spec, fitting).rungs),
            savings={rung.value: saved for rung, saved in choice.saved.items()},
            refused=_refused(spec, fitting),
        )

    def _has_norm(self, choice: Choice) -> bool:
        """Whether the model has BatchNorm; True where nothing tells."""
        load = choice.workload
        sizes = known_sizes(choice.job, StepKind.TRAIN, is_cut=load.is_cut)
        parts = self.scales.lookup(load, sizes).parts
        return not parts or parts.get("statistics", 0) > 0

    def _breakdown(
        self, choice: Choice, target: Target
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        """What holds the bytes at the peak of the training step, by part and by module."""
        if not self._has_parts:
            return {}, {}
        parts, modules = self._predictor.breakdown(choice.workload, choice.batch.micro_batch)
        outside = overheads_on(choice.workload, target).outside_bytes
        return {**parts, "context": 0 if target.is_emulated else outside}, modules


def ladder_of(spec: RunSpec, fitting: Fitting) -> Ladder:
    """The rungs of the config that the run's trainer can carry out."""
    able = carried_out(spec.trainer)
    if not can_8bit():
        able -= {Rung.OPTIMIZER_8BIT}
    if refusal(spec):
        able -= {Rung.SHARD}
    return replace(
        fitting.ladder, rungs=tuple(rung for rung in fitting.ladder.rungs if rung in able)
    )


def _refused(spec: RunSpec, fitting: Fitting) -> Mapping[str, str]:
    why = refusal(spec) if Rung.SHARD in fitting.ladder.rungs else ""
    return {Rung.SHARD.value: why} if why else {}


def _limited(spec: RunSpec, target: Target) -> Target:
    """A card as a run may use it: `resources.memory` is a limit by hand."""
    limits = [limit for limit in (spec.memory_bytes, target.limit_bytes) if limit is not None]
    return replace(target, limit_bytes=min(limits, default=None))


def _as_given(mine: Workload, choice: Choice, target: Target) -> Workload:
    """This card's workload with what the rungs of another card's choice gave up."""
    if Rung.AMP in choice.rungs:
        mine = next(iter(climbed(Rung.AMP, mine, target)), mine)
    chosen = choice.job.train
    if (place := place_of(chosen)) != WHOLE:
        mine = sharded(mine, place)
    is_train = mine.kind is StepKind.TRAIN
    most = chosen.imgsz if is_train else validation_size(chosen.imgsz, chosen.task)
    return replace(
        mine,
        imgsz=min(mine.imgsz, most),
        is_checkpointed=chosen.is_checkpointed and is_train,
        optimizer_state=chosen.optimizer_state,
    )


def _unknown(
    spec: RunSpec, job: Job, target: Target, budget: Bytes, error: OrchestratorError
) -> CardPlan:
    """The plan of what cannot be predicted: no figure at all, and why."""
    return CardPlan(
        project=spec.project,
        model=spec.settings.model,
        imgsz=job.train.imgsz,
        gpu=target.name,
        gpu_memory_bytes=target.memory_bytes,
        effective_batch=spec.effective_batch,
        world_size=spec.num_gpus,
        micro_batch=None,
        accumulation_steps=None,
        precision=job.train.precision,
        predicted_peak_bytes=None,
        budget_bytes=budget,
        fits=None,
        rungs=(),
        confidence=Confidence.UNKNOWN.value,
        reason="; ".join((error.what, *error.why)),
        optimizer=job.train.optimizer,
        is_emulated=target.is_emulated,
        remedies=error.fix,
    )
