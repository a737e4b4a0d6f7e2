"""The cut that fits: the largest micro-batch, and what has to be given up so that one fits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.plan.batch import balanced
from orchestrator.plan.budget import Target
from orchestrator.plan.correct import AS_PREDICTED, Correction
from orchestrator.plan.footprint import Demand, Footprint
from orchestrator.plan.job import Job, validation_size
from orchestrator.plan.ladder import DEFAULT_LADDER, Rung, climbed
from orchestrator.plan.workload import StepKind, Workload
from orchestrator.types import BatchPlan, Bytes

__all__ = [
    "Choice",
    "Ladder",
    "Scales",
    "bare_need",
    "choose",
    "cut_sizes",
    "infer_batch",
    "known_sizes",
    "need_of",
    "scaled",
]

Lookup = Callable[[Workload, Sequence[int]], Footprint]
Need = Callable[[Workload, Demand, Target], Bytes]
Correct = Callable[[Workload, int, Bytes, Target], Correction]

# What takes the place of another rung.
_REPLACED: Mapping[Rung, Sequence[Rung]] = {
    Rung.OPTIMIZER_HOST: (Rung.OPTIMIZER_8BIT,),
    Rung.SHARD: (Rung.OPTIMIZER_8BIT, Rung.OPTIMIZER_HOST),
}
_MANY = 12  # replays of a footprint that cost about as much as a trace


def _as_predicted(_workload: Workload, _size: int, _bytes: Bytes, _target: Target) -> Correction:
    return AS_PREDICTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What turns a workload into bytes of a card.

    `lookup` gives a workload's footprint, known at these micro-batches at least; `need` is what a
    card must have free for a demand: context, workspaces, and the factor of its kind; `correct`
    says what measured peaks make of the predicted one of a training step cut into so many samples.
    """

    lookup: Lookup
    need: Need
    correct: Correct = _as_predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """What may be given up, in order. `least_imgsz` None allows no smaller pictures."""

    rungs: Sequence[Rung] = DEFAULT_LADDER
    least_imgsz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a job runs on a card. Where `fits` is False it is the nearest miss.

    `need_bytes` is what the card must have free at the peak of training and validation;
    `decided_by` says which of the two it is.
    """

    batch: BatchPlan
    job: Job
    rungs: tuple[Rung, ...]
    fits: bool
    need_bytes: Bytes
    budget_bytes: Bytes
    train: Demand
    validation: Demand
    decided_by: StepKind
    traced_bytes: Bytes  # the peak of live bytes as predicted, before any correction
    correction: Correction = AS_PREDICTED
    saved: Mapping[Rung, Bytes] = field(default_factory=dict)  # by each rung, at the cut before it

    @property
    def workload(self) -> Workload:
        """The training step as it is cut."""
        is_cut = self.batch.accumulation_steps > 1
        return replace(self.job.train, is_cut=is_cut)


def cut_sizes(rank_batch: int, limit: int | None) -> tuple[int, ...]:
    """Every sensible micro-batch, the largest first: one for each number of pieces.

    Of all sizes that need the same number of pieces, the smallest: it is the most even one. These
    are about twice the square root of the batch.
    """
    top = rank_batch if limit is None else balanced(rank_batch, limit)
    sizes: list[int] = []
    steps = 1
    while not sizes or sizes[-1] > 1:
        size = -(-rank_batch // steps)
        sizes.append(size)
        steps = -(-rank_batch // max(1, size - 1))  # the fewest pieces of a smaller size
    return tuple(size for size in sizes if size <= top)


def known_sizes(job: Job, kind: StepKind, *, is_cut: bool = True) -> tuple[int, ...]:
    """Micro-batches at which the footprint of a job's step should be known, ascending.

    A step that is not cut has one. Of many cuts every one is known up to a dozen, of more those
    that are spread evenly over the orders of magnitude; between them the chord is an upper bound.
    """
    if kind is StepKind.TRAIN and not is_cut:
        return (job.rank_batch,)
    sizes = sorted(cut_sizes(job.rank_batch, None))
    if len(sizes) > _MANY:
        ratio = (len(sizes) - 1) / (_MANY - 1)
        sizes = sorted({sizes[round(at * ratio)] for at in range(_MANY)})
    pieces = job.validation_pieces if kind is StepKind.VALIDATE else 1
    return tuple(size * pieces for size in sizes)


def choose(
    job: Job, target: Target, budget: Bytes, scales: Scales, ladder: Ladder | None = None
) -> Choice:
    """Climb the ladder until the job fits, and take the largest micro-batch that does.

    The effective batch never changes. More memory never means more rungs, nor, with the same
    rungs, a smaller micro-batch. A rung that wins nothing where the job needs least is passed over
    until all others are taken: it may win something then. So is every one but the cut where the
    weights alone are too much: each would have to be traced.
    """
    ladder = ladder or Ladder()
    sizes = cut_sizes(job.rank_batch, job.limit)
    allowed, given = sizes[:1], list[Rung]()
    saved: dict[Rung, Bytes] = {}
    found = _largest(job, allowed, target, budget, scales)
    promising = () if found.fits else _promising(ladder, job, target, budget, scales)
    again = [rung for rung in promising if rung is not Rung.CUT]
    for rung in (*promising, *again):
        if found.fits:
            break
        if rung is Rung.CUT:
            allowed = sizes
            found = _largest(job, allowed, target, budget, scales)
            continue
        for train in climbed(rung, job.train, target, least_imgsz=ladder.least_imgsz):
            changed = replace(job, train=train, validate=_beside(job.validate, train))
            same = need_of(changed, found.batch.micro_batch, target, budget, scales)
            won = found.need_bytes - same.need_bytes
            if won <= 0:
                continue
            job = changed
            given = [each for each in given if each not in (rung, *_REPLACED.get(rung, ()))]
            given.append(rung)
            saved[rung] = saved.get(rung, 0) + won
            found = _largest(job, allowed, target, budget, scales)
            if found.fits:
                break
    is_cut = found.batch.micro_batch < sizes[0]
    named = (Rung.CUT, *given) if is_cut else tuple(given)
    order = {rung: at for at, rung in enumerate(ladder.rungs)}
    rungs = tuple(sorted(named, key=order.__getitem__))
    return replace(found, rungs=rungs, saved={each: saved[each] for each in rungs if each in saved})


def _promising(
    ladder: Ladder, job: Job, target: Target, budget: Bytes, scales: Scales
) -> Sequence[Rung]:
    """The rungs that may help."""
    if bare_need(job, target, scales, has_weights=True) <= budget:
        return ladder.rungs
    return [rung for rung in ladder.rungs if rung is Rung.CUT]


def _beside(validate: Workload, train: Workload) -> Workload:
    """Validation of a training that was changed by a rung."""
    return replace(
        validate,
        precision=train.precision,
        imgsz=min(validate.imgsz, validation_size(train.imgsz, train.task)),
        optimizer_state=train.optimizer_state,
        options=train.options,
    )


def _largest(
    job: Job, sizes: Sequence[int], target: Target, budget: Bytes, scales: Scales
) -> Choice:
    """The choice of the first of the sizes that fits, or of the one that needs least."""
    nearest: Choice | None = None
    for size in sizes:
        choice = need_of(job, size, target, budget, scales)
        if choice.fits:
            return choice
        if nearest is None or choice.need_bytes < nearest.need_bytes:
            nearest = choice
    assert nearest is not None, "a batch has at least one size"
    return nearest


def need_of(job: Job, size: int, target: Target, budget: Bytes, scales: Scales) -> Choice:
    """What a job needs when it is cut into pieces of `size` samples."""
    batch = BatchPlan(
        effective_batch=job.effective_batch, world_size=job.world_size, micro_batch=size
    )
    steps = {
        StepKind.TRAIN: (replace(job.train, is_cut=batch.accumulation_steps > 1), size),
        StepKind.VALIDATE: (job.validate, size * job.validation_pieces),
    }
    traced = {
        kind: scales.lookup(load, known_sizes(job, kind, is_cut=load.is_cut)).at(samples)
        for kind, (load, samples) in steps.items()
    }
    predicted = max(demand.allocated_bytes for demand in traced.values())
    found = scales.correct(steps[StepKind.TRAIN][0], size, predicted, target)
    demands = {kind: scaled(demand, found.factor) for kind, demand in traced.items()}
    needs = {
        kind: scales.need(workload, demands[kind], target) for kind, (workload, _) in steps.items()
    }
    peak = max(needs, key=needs.__getitem__)
    return Choice(
        batch=batch,
        job=job,
        rungs=(),
        fits=needs[peak] <= budget,
        need_bytes=needs[peak],
        budget_bytes=budget,
        train=demands[StepKind.TRAIN],
        validation=demands[StepKind.VALIDATE],
        decided_by=peak,
        traced_bytes=predicted,
        correction=found,
    )


def bare_need(job: Job, target: Target, scales: Scales, *, has_weights: bool = False) -> Bytes:
    """What a card must have free for any process that trains, with the job's weights or without.

    No rung makes it less. 0 for gangs and emulated cards, whose needs do not follow from it.
    """
    if job.world_size > 1 or target.is_emulated:
        return 0
    held = 0
    if has_weights:
        sizes = known_sizes(job, StepKind.TRAIN, is_cut=job.train.is_cut)
        # Copies in half precision, which autocast may drop, are at most a third of them.
        held = scales.lookup(job.train, sizes).parts.get("weights", 0) * 2 // 3
    demand = Demand(micro_batch=1, allocated_bytes=held, reserved_bytes=held, least_bytes=held)
    return scales.need(job.train, demand, target)


def scaled(demand: Demand, factor: float) -> Demand:
    """A demand with every figure multiplied, rounded up."""
    if factor == 1.0:
        return demand
    return replace(
        demand,
        allocated_bytes=math.ceil(demand.allocated_bytes * factor),
        reserved_bytes=math.ceil(demand.reserved_bytes * factor),
        least_bytes=math.ceil(demand.least_bytes * factor),
    )


def infer_batch(
    workload: Workload, target: Target, budget: Bytes, scales: Scales, *, most: int
) -> tuple[int, Bytes]:
    """The largest inference batch up to `most` that fits, and what it needs; 0 where none does.

    With 0 the need is that of a single picture.
    """
    workload = replace(workload, kind=StepKind.INFER, labels=None, is_checkpointed=False)
    doublings = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    footprint = scales.lookup(workload, (*doublings, most))

    def need(size: int) -> Bytes:
        return scales.need(workload, footprint.at(size), target)

    # Points are exact and lie lower than what is between them, so they are looked at first.
    low = max((size for size in (*doublings, most) if need(size) <= budget), default=0)
    high = min(2 * low, most) if low else 0
    while low < high:
        middle = (low + high + 1) // 2
        if need(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low, need(max(low, 1))
