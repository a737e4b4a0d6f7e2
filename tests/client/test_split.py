"""Folds are disjoint and complete, keep groups whole, and are the same on every machine."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.client.split import Pictures, can_be_spread, missing_classes, split
from orchestrator.config.types import Folds
from orchestrator.errors import DataError

pytest.importorskip("sklearn", reason="the extra [folds] is not installed")


def pictures(labels: Sequence[tuple[int, ...]], num_classes: int = 3) -> Pictures:
    names = tuple(f"{at:04}.png" for at in range(len(labels)))
    return Pictures(
        names=names,
        paths=tuple(f"/set/{name}" for name in names),
        labels=tuple(labels),
        classes=tuple(f"class{label}" for label in range(num_classes)),
    )


LABELS = st.lists(
    st.lists(st.integers(0, 2), max_size=2).map(lambda each: tuple(sorted(set(each)))),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    labels=LABELS,
    groups=st.one_of(st.none(), st.integers(1, 9)),
    k=st.integers(2, 6),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
)
def test_every_picture_is_in_one_fold_and_every_group_whole(
    labels: list[tuple[int, ...]], groups: int | None, k: int, seed: int, stratify: bool
) -> None:
    own = None if groups is None else [f"g{at * 7 % groups}" for at in range(len(labels))]
    num = len(labels) if own is None else len(set(own))
    folds = Folds(k=k, seed=seed, stratify=stratify)
    try:
        chosen = split(pictures(labels), own, folds)
    except DataError as error:
        assert error.code == ("E3301" if k > num else "E3302")  # noqa: PT017 - only now and then
        return
    assert k <= num
    assert len(chosen) == len(labels)
    assert set(chosen) == set(range(k)), "a fold without a picture, or one beyond"
    if own is not None:
        found = set(zip(own, chosen, strict=True))
        assert len(found) == len(set(own)), "a group is in two folds"
    assert split(pictures(labels), own, folds) == chosen


def test_the_split_is_the_one_that_every_machine_makes() -> None:
    """The same numbers since the first version: results of different machines are compared."""
    labels = [(at % 3,) for at in range(12)]
    assert split(pictures(labels), None, Folds(k=3, seed=1)) == SPLIT_OF_TWELVE
    groups = [f"g{at // 2}" for at in range(12)]
    assert split(pictures(labels), groups, Folds(k=3, seed=1)) == SPLIT_OF_GROUPS


def test_another_seed_gives_another_split() -> None:
    labels = [(at % 3,) for at in range(60)]
    splits = {split(pictures(labels), None, Folds(k=5, seed=seed)) for seed in range(4)}
    assert len(splits) == 4


def test_classes_are_spread_evenly_and_a_picture_counts_for_its_rarest() -> None:
    labels = [(0,)] * 50 + [(0, 1)] * 10 + [()] * 5
    chosen = split(pictures(labels), None, Folds(k=5))
    rare = Counter(fold for fold, own in zip(chosen, labels, strict=True) if 1 in own)
    empty = Counter(fold for fold, own in zip(chosen, labels, strict=True) if not own)
    assert set(rare.values()) == {2}
    assert set(empty.values()) == {1}


def test_too_few_pictures_or_groups_say_how_many_folds_there_can_be() -> None:
    with pytest.raises(DataError, match=r"folds\.k is 5, and there are 4 pictures") as few:
        split(pictures([(0,)] * 4), None, Folds(k=5))
    assert few.value.fix == ("folds.k: at most 4",)
    with pytest.raises(DataError, match="there are 2 groups"):
        split(pictures([(0,)] * 8), ["a", "b"] * 4, Folds(k=3))


def test_classes_with_fewer_pictures_than_folds_are_split_without_regard_to_them() -> None:
    found = pictures([(0,), (1,), (2,), (0,)])
    assert not can_be_spread(found, 3)
    assert can_be_spread(found, 2)
    assert set(split(found, None, Folds(k=3))) == {0, 1, 2}


def test_a_class_that_no_training_picture_has_is_named() -> None:
    found = pictures([(0,), (0,), (1,), (2,), (0, 2)])
    chosen = (0, 1, 1, 0, 0)
    assert missing_classes(found, chosen, 0) == ("class2",)
    assert missing_classes(found, chosen, 1) == ("class1",)


SPLIT_OF_TWELVE = (2, 0, 2, 1, 1, 2, 0, 1, 0, 0, 2, 1)
SPLIT_OF_GROUPS = (0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2)
