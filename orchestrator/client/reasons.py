"""Why a plan is what it is, in a line: the cut, what is given up, what decides, what is unknown."""

from orchestrator.plan.choose import Choice
from orchestrator.plan.ladder import COSTS, NO_NORM, Rung
from orchestrator.plan.workload import StepKind
from orchestrator.types import Bytes

__all__ = ["reason_of"]

_ROTATED = "not predicted: suppressing rotated boxes, which grows with the square of the candidates"


def reason_of(choice: Choice, *, has_norm: bool) -> str:
    """The line of a choice; `has_norm` says that its model has BatchNorm."""
    batch = choice.batch
    if not choice.fits:
        text = (
            f"even {batch.micro_batch} sample(s) at a time need {_gib(choice.need_bytes)},"
            f" {_gib(choice.need_bytes - choice.budget_bytes)} more than the budget"
        )
    elif batch.accumulation_steps == 1:
        text = f"the whole batch of {batch.rank_batch} fits"
    else:
        pieces = " + ".join(map(str, batch.pieces[:4])) + (" ..." if len(batch.pieces) > 4 else "")
        text = f"cut into {batch.accumulation_steps} pieces ({pieces}), the largest that fit"
    effects = {rung: COSTS[rung].effect for rung in choice.rungs}
    if not has_norm and Rung.CUT in effects:
        effects[Rung.CUT] = NO_NORM
    given = [f"{rung}: {effect}" for rung, effect in effects.items()]
    peak = "validation needs most" if choice.decided_by is StepKind.VALIDATE else ""
    rest = _ROTATED if choice.job.train.task == "obb" else ""
    return "; ".join(part for part in (text, *given, peak, rest, choice.correction.why) if part)


def _gib(num_bytes: Bytes) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
