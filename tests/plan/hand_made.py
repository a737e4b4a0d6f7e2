"""Footprints made by hand, for the tests of planning: straight lines and what rungs save."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Scales
from orchestrator.plan.footprint import Demand, Footprint
from orchestrator.plan.job import Job
from orchestrator.plan.sharded import WHOLE, place_of
from orchestrator.plan.workload import OptimizerState, StepKind, Workload
from orchestrator.types import Bytes

__all__ = ["CONTEXT", "GIB", "MIB", "Lines", "job", "need", "scales", "target"]

GIB = 2**30
MIB = 2**20
CONTEXT = 450 * MIB


@dataclass
class Lines:
    """A predictor whose bytes are `fixed + slope * samples`; it counts what it was asked."""

    fixed: Bytes = 200 * MIB
    slope: Bytes = 300 * MIB
    statistics: Bytes = 4096  # of BatchNorm
    asked: list[Workload] = field(default_factory=list)

    def footprints(self, asks: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        return [self.footprint(workload, sizes) for workload, sizes in asks]

    def footprint(self, workload: Workload, sizes: Sequence[int]) -> Footprint:
        self.asked.append(workload)
        points = tuple(self.demand(workload, size) for size in sizes)
        peak = points[-1].allocated_bytes
        parts = {"weights": self.fixed // 4, "statistics": self.statistics}
        parts["activations"] = peak - sum(parts.values())
        return Footprint(workload=workload, points=points, parts=parts)

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[dict[str, Bytes], dict[str, Bytes]]:
        peak = self.demand(workload, micro_batch).allocated_bytes
        return {"weights": peak // 2, "activations": peak - peak // 2}, {"model.0": peak}

    def demand(self, workload: Workload, size: int) -> Demand:
        fixed, slope = self.fixed, self.slope
        if workload.kind is not StepKind.TRAIN:
            slope //= 6
        if workload.precision != "fp32":
            slope = slope * 6 // 10
        if workload.is_checkpointed:
            slope //= 2
        if workload.optimizer_state is OptimizerState.EIGHT_BIT:
            fixed = fixed * 3 // 4
        if workload.optimizer_state is OptimizerState.HOST:
            fixed //= 2
        if place_of(workload) != WHOLE:
            fixed //= workload.world_size if place_of(workload) == "card" else 8
        if workload.is_cut:
            fixed += self.fixed // 8  # gradients live on
        slope = slope * workload.imgsz**2 // 640**2
        allocated = fixed + slope * size
        return Demand(
            micro_batch=size,
            allocated_bytes=allocated,
            reserved_bytes=allocated * 11 // 10,
            least_bytes=allocated + 2 * MIB,
        )


def need(_workload: Workload, demand: Demand, _target: Target) -> Bytes:
    return demand.least_bytes + CONTEXT


def scales(lines: Lines) -> Scales:
    return Scales(lookup=lines.footprint, need=need)


def target(gib: float = 6, *, limit: Bytes | None = None, foreign: Bytes = 0) -> Target:
    return Target(
        name="card",
        memory_bytes=int(gib * GIB),
        foreign_bytes=foreign,
        architecture="Ampere",
        compute_capability=(8, 6),
        limit_bytes=limit,
    )


def job(
    batch: int = 16, *, world: int = 1, limit: int | None = None, precision: str = "fp32"
) -> Job:
    train = Workload(
        trainer="yolo", model="yolo11n.yaml", imgsz=640, num_classes=3, precision=precision
    )
    return Job(
        train=train,
        validate=Workload(
            trainer="yolo",
            model="yolo11n.yaml",
            imgsz=640,
            num_classes=3,
            precision=precision,
            kind=StepKind.VALIDATE,
        ),
        effective_batch=batch,
        world_size=world,
        limit=limit,
    )
