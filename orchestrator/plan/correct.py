"""Measured peaks against predicted ones: what a prediction is multiplied by, and how sure it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.types import Bytes, Seconds

__all__ = ["AS_PREDICTED", "Confidence", "Correction", "Peak", "Question", "correction"]

_SHRINKAGE = 2.0  # runs that say "as predicted", before anything was measured
_LEAST, _MOST = 0.85, 2.0  # what a residual of other runs may change; beyond, something is wrong
_ENOUGH_STEPS = 3  # the first step has no optimizer state yet; the third is like all others
_OTHER_MODEL = 0.5  # what a run of a similar model counts beside one of the same
_OTHER_VERSIONS = 0.5  # what a run under other versions of the libraries counts


class Confidence(StrEnum):
    """Where a number comes from, the surest first."""

    MEASURED = "measured"  # this very step on this kind of card
    PREDICTED = "predicted"  # traced and replayed, perhaps corrected by other measured runs
    TABLE = "table"  # from a table or a rule
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A row of the book: what one attempt was seen to need, cut into `micro_batch` samples.

    `workload` identifies the traced step with everything its bytes depend on, "" where it was not
    traced; `predicted_bytes` is what was predicted for `peak_bytes` then, before any correction.
    `versions` names the libraries. `steps` are the optimizer steps that were watched;
    `has_validation` says whether validation was, too: without it the row is a lower bound.
    """

    trainer: str
    model: str
    imgsz: int
    micro_batch: int
    precision: str
    optimizer: str
    card: str
    is_emulated: bool
    versions: str
    peak_bytes: Bytes
    peak_reserved_bytes: Bytes = 0
    steps: int = 0
    has_validation: bool = True  # epochs are reported after it
    predicted_bytes: Bytes | None = None
    workload: str = ""
    at: Seconds = 0.0
    attempt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is about to be planned, in the words of the book."""

    trainer: str
    model: str
    workload: str
    micro_batch: int
    card: str
    is_emulated: bool
    versions: str
    predicted_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the prediction is multiplied by, how sure the product is, and why."""

    factor: float = 1.0
    confidence: Confidence = Confidence.PREDICTED
    why: str = ""


AS_PREDICTED = Correction()


def correction(question: Question, book: Sequence[Peak]) -> Correction:
    """What the book says about a prediction.

    A measured peak of the same step, cut and kind of card takes the prediction's place. Otherwise
    the weighted median of measured over predicted, of runs of the same and of similar models on
    such cards, is shrunk towards 1 as long as the runs are few. Emulated cards are a CPU and are
    never mixed with real ones. A peak that was seen without validation counts only where it is
    above what was predicted, and never takes the prediction's place by itself.
    """
    near = [
        peak
        for peak in book
        if peak.is_emulated == question.is_emulated
        and peak.card == question.card
        and peak.steps >= _ENOUGH_STEPS
        and peak.peak_bytes > 0
    ]
    same = [p for p in near if _is_same(p, question)]
    if any(peak.has_validation for peak in same) and question.predicted_bytes:
        most = max(peak.peak_bytes for peak in same)
        return Correction(
            factor=most / question.predicted_bytes,
            confidence=Confidence.MEASURED,
            why=f"measured in {len(same)} attempt(s) on {question.card}",
        )
    weights = [
        (p.peak_bytes / p.predicted_bytes, _weight(p, question))
        for p in near
        if p.predicted_bytes and (p.has_validation or p.peak_bytes > p.predicted_bytes)
    ]
    known = sorted((ratio, weight) for ratio, weight in weights if weight > 0)
    if not known:
        return AS_PREDICTED
    total = sum(weight for _, weight in known)
    factor = 1 + (_weighted_median(known) - 1) * total / (total + _SHRINKAGE)
    factor = min(max(factor, _LEAST), _MOST)
    return Correction(
        factor=factor,
        confidence=Confidence.PREDICTED,
        why=f"corrected by {factor:.3f} after {len(known)} measured attempt(s)",
    )


def _is_same(peak: Peak, question: Question) -> bool:
    return (
        bool(peak.workload)
        and peak.workload == question.workload
        and peak.micro_batch == question.micro_batch
        and peak.versions == question.versions
    )


def _weight(peak: Peak, question: Question) -> float:
    """What a measured run says about another one: nothing across trainers or model families."""
    if peak.trainer != question.trainer or _family(peak.model) != _family(question.model):
        return 0.0
    weight = 1.0 if peak.model == question.model else _OTHER_MODEL
    return weight if peak.versions == question.versions else weight * _OTHER_VERSIONS


def _family(model: str) -> str:
    """`yolo11` of yolo11n.yaml and yolo11l.pt, `resnet` of resnet50, `vit` of vit_base_..."""
    name = model.rpartition("/")[2].lower()
    if yolo := re.match(r"yolo\w*?\d+", name):
        return yolo[0]
    letters = re.match(r"[a-z]+", name)
    return letters[0] if letters else name


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached; `values` ascend."""
    half, seen = sum(weight for _, weight in values) / 2, 0.0
    for value, weight in values:
        seen += weight
        if seen >= half:
            return value
    raise ValueError("no values")
