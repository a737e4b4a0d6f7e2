"""Folds of a set of pictures: disjoint, complete, groups whole, classes even, the same anywhere."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.types import Folds
from orchestrator.errors import ConfigError, DataError

__all__ = ["Pictures", "can_be_spread", "missing_classes", "split"]

NOTHING = -1  # the label of a picture on which nothing is labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is split. `names` are in ascending order and do not depend on the machine.

    `labels` are the classes on each picture, as numbers of `classes`; none, one or several.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def split(pictures: Pictures, groups: Sequence[str] | None, folds: Folds) -> tuple[int, ...]:
    """The fold of each picture, from 0: the one in whose validation part it is.

    Every picture is in exactly one fold, and pictures of one group are in the same. With
    `stratify` classes are spread evenly, a picture counting for its rarest class. scikit-learn
    splits, with a generator that gives the same numbers on every machine.

    Args:
        pictures: What is split.
        groups: The group of each picture; None puts each into one of its own.
        folds: How many, the seed, whether classes are spread.

    Raises:
        ConfigError: E1041, scikit-learn is not installed.
        DataError: E3301, there are fewer pictures or groups than folds; E3302, a fold would have
            no picture.
    """
    num, what = len(pictures), "pictures"
    if groups is not None:
        num, what = len(set(groups)), "groups"
    if folds.k > num:
        raise DataError(
            f"folds.k is {folds.k}, and there are {num} {what}",
            code="E3301",
            fix=(f"folds.k: at most {num}",),
        )
    chosen = _chosen(pictures, groups, folds)
    if empty := sorted(set(range(folds.k)) - set(chosen)):
        raise DataError(
            f"fold {empty[0] + 1} of {folds.k} would have no picture to validate on",
            code="E3302",
            why=("classes cannot be spread over so many folds with whole groups",),
            fix=(f"folds.k: at most {folds.k - len(empty)}", "folds.stratify: false"),
        )
    return chosen


def can_be_spread(pictures: Pictures, k: int) -> bool:
    """True when some class is the rarest on as many pictures as there are folds."""
    return max(Counter(_rarest(pictures)).values()) >= k


def missing_classes(pictures: Pictures, chosen: Sequence[int], fold: int) -> tuple[str, ...]:
    """The classes of the set that no training picture of a fold has."""
    every = {label for labels in pictures.labels for label in labels}
    trained = {
        label
        for labels, own in zip(pictures.labels, chosen, strict=True)
        if own != fold
        for label in labels
    }
    return tuple(pictures.classes[label] for label in sorted(every - trained))


def _chosen(pictures: Pictures, groups: Sequence[str] | None, folds: Folds) -> tuple[int, ...]:
    try:
        from sklearn import model_selection
    except ImportError as error:
        raise ConfigError(
            "folds need scikit-learn, which is not installed",
            code="E1041",
            fix=('pip install "orchestrator[folds]"',),
        ) from error
    rarest = _rarest(pictures)
    is_spread = folds.stratify and can_be_spread(pictures, folds.k)
    kind = {
        (True, True): model_selection.StratifiedGroupKFold,
        (True, False): model_selection.StratifiedKFold,
        (False, True): model_selection.GroupKFold,
        (False, False): model_selection.KFold,
    }[is_spread, groups is not None]
    chosen = [0] * len(pictures)
    with warnings.catch_warnings():  # a class with fewer pictures than folds: told by its name
        warnings.simplefilter("ignore", UserWarning)
        parts = kind(n_splits=folds.k, shuffle=True, random_state=folds.seed)
        for fold, (_, tested) in enumerate(parts.split(pictures.names, rarest, groups)):
            for at in tested:
                chosen[int(at)] = fold
    return tuple(chosen)


def _rarest(pictures: Pictures) -> list[int]:
    counts = Counter(label for labels in pictures.labels for label in set(labels))
    return [
        min(labels, key=lambda label: (counts[label], label), default=NOTHING)
        for labels in pictures.labels
    ]
