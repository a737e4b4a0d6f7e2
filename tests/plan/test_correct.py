"""What measured peaks do to a prediction."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.correct import AS_PREDICTED, Confidence, Peak, Question, correction

GIB = 2**30
QUESTION = Question(
    trainer="yolo",
    model="yolo11s.yaml",
    workload="w",
    micro_batch=8,
    card="RTX 4090",
    is_emulated=False,
    versions="torch=2.15",
    predicted_bytes=2 * GIB,
)


def peak(**changes: object) -> Peak:
    row = Peak(
        trainer="yolo",
        model="yolo11s.yaml",
        imgsz=640,
        micro_batch=8,
        precision="fp16",
        optimizer="AdamW",
        card="RTX 4090",
        is_emulated=False,
        versions="torch=2.15",
        peak_bytes=2 * GIB,
        steps=100,
        predicted_bytes=2 * GIB,
        workload="w",
    )
    return replace(row, **changes)  # type: ignore[arg-type] # fields by name


def test_an_empty_book_changes_nothing() -> None:
    assert correction(QUESTION, []) == AS_PREDICTED


def test_the_same_step_measured_takes_the_place_of_the_prediction() -> None:
    book = [peak(peak_bytes=GIB), peak(peak_bytes=3 * GIB), peak(card="T4", peak_bytes=9 * GIB)]
    found = correction(QUESTION, book)
    assert found.factor == 1.5
    assert found.confidence is Confidence.MEASURED


def test_a_peak_without_validation_is_a_lower_bound_and_no_measured_peak() -> None:
    apart = peak(has_validation=False, peak_bytes=GIB)
    assert correction(QUESTION, [apart]) == AS_PREDICTED
    more = correction(QUESTION, [replace(apart, peak_bytes=3 * GIB)])
    assert more.confidence is Confidence.PREDICTED
    assert 1 < more.factor < 1.5
    found = correction(QUESTION, [replace(apart, peak_bytes=3 * GIB), peak()])
    assert (found.factor, found.confidence) == (1.5, Confidence.MEASURED)
    assert correction(QUESTION, [apart, peak()]).factor == 1.0


def test_a_few_steps_say_nothing() -> None:
    assert correction(QUESTION, [peak(steps=2, peak_bytes=9 * GIB)]) == AS_PREDICTED


def test_other_cuts_and_similar_models_correct_the_rest_the_more_the_more_there_are() -> None:
    other = peak(micro_batch=4, peak_bytes=3 * GIB)
    factors = [correction(QUESTION, [other] * count).factor for count in (1, 2, 8, 200)]
    assert factors == sorted(factors)
    assert 1.1 < factors[0] < 1.2
    assert 1.45 < factors[-1] < 1.5
    similar = peak(model="yolo11l.yaml", micro_batch=4, peak_bytes=3 * GIB)
    assert 1 < correction(QUESTION, [similar]).factor < factors[0]
    assert correction(QUESTION, [other]).confidence is Confidence.PREDICTED


def test_other_versions_count_less_and_are_never_taken_as_measured() -> None:
    old = peak(versions="torch=2.1", peak_bytes=3 * GIB)
    found = correction(QUESTION, [old])
    assert found.confidence is Confidence.PREDICTED
    assert 1 < found.factor < correction(QUESTION, [replace(old, versions="torch=2.15",
                                                            micro_batch=1)]).factor  # fmt: skip


def test_emulated_cards_other_cards_trainers_and_families_are_kept_apart() -> None:
    strangers = [
        peak(is_emulated=True, peak_bytes=9 * GIB),
        peak(card="RTX 4080", peak_bytes=9 * GIB),
        peak(trainer="timm", model="resnet50", workload="x", peak_bytes=9 * GIB),
        peak(model="yolov8s.yaml", workload="x", peak_bytes=9 * GIB),
    ]
    assert correction(QUESTION, strangers) == AS_PREDICTED


@given(
    peaks=st.lists(st.integers(1, 64 * GIB), max_size=9),
    batches=st.integers(1, 64),
)
def test_residuals_of_other_runs_stay_within_reason(peaks: list[int], batches: int) -> None:
    book = [peak(micro_batch=batches + 8, peak_bytes=each) for each in peaks]
    assert 0.85 <= correction(QUESTION, book).factor <= 2.0
