"""What epochs tell of speeds, and what is taken for what they do not tell yet."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schedule.throughput import (
    ASSUMED_SHARE,
    Sample,
    Source,
    Throughput,
    Verdict,
    signature,
)
from tests.strategies import make_spec

KINDS = ("new", "old")
NAMES = ("a", "b", "c")


def known(*samples: Sample) -> Throughput:
    throughput = Throughput()
    throughput.rate("new", 1.0)
    throughput.rate("old", 0.25)
    for sample in samples:
        throughput.learn(sample)
    return throughput


def epoch(
    name: str, speed: float, *beside: str, kind: str = "new", is_first: bool = False
) -> Sample:
    return Sample(
        signature=name, kind=kind, images_per_second=speed, beside=beside, is_first=is_first
    )


def samples(most: int = 30) -> st.SearchStrategy[list[Sample]]:
    made = st.builds(
        Sample,
        signature=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        images_per_second=st.just(0.0) | st.floats(1e-3, 1e4),
        beside=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
        is_first=st.booleans(),
    )
    return st.lists(made, max_size=most)


def test_the_speed_alone_comes_from_what_is_trusted_most() -> None:
    nothing = known()
    assert [nothing.alone("a", kind).value for kind in KINDS] == [1.0, 0.25]
    assert nothing.alone("a", "new").source is Source.WORTH
    growing: list[Sample] = []
    for sample, speed, source in (
        (epoch("a", 8.0, is_first=True), 8.0, Source.FIRST_EPOCH),
        (epoch("a", 3.0, kind="old"), 12.0, Source.OTHER_KIND),
        (epoch("a", 5.7, "b"), 5.7 / ASSUMED_SHARE, Source.COMPANY),
        (epoch("a", 11.0), 11.0, Source.EPOCHS),
    ):
        growing.append(sample)
        found = known(*growing).alone("a", "new")
        assert found.value == pytest.approx(speed)
        assert found.source is source


def test_epochs_of_one_signature_serve_all_who_have_it() -> None:
    spec, other = make_spec("fold-1"), make_spec("fold-2")
    assert signature(spec, 16) == signature(other, 16)
    assert signature(spec, 16) != signature(spec, 8)


def test_the_share_beside_another_is_measured_or_what_is_usual() -> None:
    assert known().share("a", "b", "new").value == ASSUMED_SHARE
    measured = known(epoch("a", 10.0), epoch("a", 7.0, "b"))
    share = measured.share("a", "b", "new")
    assert share.value == pytest.approx(0.7)
    assert share.source is Source.EPOCHS
    assert measured.share("a", "b", "old").value == pytest.approx(0.7)  # as on the other kind
    assert measured.share("a", "b", "old").source is Source.OTHER_KIND
    usual = (ASSUMED_SHARE + 0.7) / 2
    assert measured.share("a", "c", "new").value == pytest.approx(usual)  # what it is left
    assert measured.share("c", "b", "new").value == pytest.approx(usual)  # what is left beside b
    assert measured.share("b", "a", "new").value == ASSUMED_SHARE


def pair_of(total: float, num: int) -> Throughput:
    alone = [epoch("a", 10.0), epoch("b", 10.0)] * num
    beside = [epoch("a", 5 * total, "b"), epoch("b", 5 * total, "a")] * num
    return known(*alone, *beside)


@pytest.mark.parametrize(
    ("total", "num", "verdict"),
    [
        (0.7, 1, Verdict.PARTED),
        (0.95, 1, Verdict.TOGETHER),  # one epoch of each may be wrong by that much
        (0.95, 8, Verdict.PARTED),
        (1.0, 30, Verdict.TOGETHER),
        (1.4, 30, Verdict.TOGETHER),
    ],
)
def test_a_pair_is_parted_when_it_is_slower_by_more_than_the_noise(
    total: float, num: int, verdict: Verdict
) -> None:
    pair = pair_of(total, num).pair("a", "b", "new")
    assert pair.total == pytest.approx(total)
    assert pair.verdict is verdict
    speeds = pair_of(total, num).speeds(["a", "b"], ["new"], "new")
    assert (("a", "b", "new") in speeds.beside) == (verdict is Verdict.TOGETHER)


def test_scatter_keeps_a_pair_together_that_would_be_parted_without() -> None:
    steady = pair_of(0.9, 4)
    for sample in (epoch("a", 5.0), epoch("a", 20.0)):
        steady.learn(sample)
    assert steady.pair("a", "b", "new").total < 0.9
    assert pair_of(0.9, 4).pair("a", "b", "new").verdict is Verdict.PARTED
    assert steady.pair("a", "b", "new").verdict is Verdict.TOGETHER


def test_a_pair_is_unknown_until_both_were_measured_both_ways() -> None:
    parts = [epoch("a", 10.0), epoch("b", 10.0), epoch("a", 1.0, "b"), epoch("b", 1.0, "a")]
    assert known(*parts).pair("a", "b", "new").verdict is Verdict.PARTED
    for missing in range(4):
        rest = parts[:missing] + parts[missing + 1 :]
        pair = known(*rest).pair("a", "b", "new")
        assert (pair.verdict, pair.noise) == (Verdict.UNKNOWN, math.inf)


@given(learned=samples())
def test_it_is_a_fold_and_every_answer_is_a_speed(learned: Sequence[Sample]) -> None:
    first, second = known(*learned), known(*learned)
    speeds = first.speeds(NAMES, KINDS, "new")
    assert speeds == second.speeds(NAMES, KINDS, "new")
    assert all(math.isfinite(value) and value >= 0 for value in speeds.alone.values())
    assert all(math.isfinite(value) and value >= 0 for value in speeds.beside.values())
    for one in NAMES:
        for other in NAMES:
            assert first.pair(one, other, "new").verdict is first.pair(other, one, "new").verdict


@given(speed=st.floats(1.0, 1e4), num=st.integers(1, 200))
def test_more_epochs_leave_less_noise_and_old_ones_are_forgotten(speed: float, num: int) -> None:
    once, often = known(epoch("a", speed)), known(*[epoch("a", speed)] * num)
    assert often.alone("a", "new").noise <= once.alone("a", "new").noise
    changed = known(*[epoch("a", speed)] * num, *[epoch("a", 2 * speed)] * 200)
    assert changed.alone("a", "new").value == pytest.approx(2 * speed, rel=0.05)


def test_epochs_beside_two_others_and_without_speed_tell_nothing() -> None:
    nothing = known(epoch("a", 9.0, "b", "c"), epoch("a", 0.0), epoch("a", 2.0, "b", is_first=True))
    assert nothing.alone("a", "new").source is Source.WORTH
    assert nothing.share("a", "b", "new").source is Source.ASSUMED
