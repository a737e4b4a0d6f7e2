"""Spaces: what is sampled belongs to them, conditions hold, rates follow the batch."""

import random

import pytest

from orchestrator.sweep.space import (
    choice,
    grid,
    integer,
    loguniform,
    move,
    only_if,
    sample,
    settings_of,
    tied,
    uniform,
)

SPACE = {
    "optimizer": choice(["SGD", "AdamW"]),
    "momentum": only_if(uniform(0.5, 0.99), optimizer="SGD"),
    "lr0": loguniform(1e-4, 1e-1),
    "imgsz": integer(320, 640, 32),
    "batch": choice([16, 32, 64]),
}


def test_samples_belong_to_the_space_and_conditions_hold() -> None:
    seen = set()
    for seed in range(200):
        values = sample(SPACE, random.Random(seed))
        assert all(SPACE[key].holds(value) for key, value in values.items())
        assert ("momentum" in values) == (values["optimizer"] == "SGD")
        seen.add(values["imgsz"])
    assert {320, 640} <= seen


def test_what_population_training_moves_to_belongs_to_the_space() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        values = move(SPACE, sample(SPACE, chance), chance)
        assert all(SPACE[key].holds(value) for key, value in values.items()), values
        assert ("momentum" in values) == (values["optimizer"] == "SGD")


def test_a_grid_has_every_combination_once() -> None:
    space = {
        "optimizer": choice(["SGD", "AdamW"]),
        "nesterov": only_if(choice([True, False]), optimizer="SGD"),
        "batch": choice([16, 32]),
    }
    found = list(grid(space))
    assert len(found) == 6
    assert len({str(values) for values in found}) == 6


def test_a_grid_of_endless_values_is_refused() -> None:
    with pytest.raises(ValueError, match="lr0 has endless values"):
        list(grid({"lr0": loguniform(1e-4, 1e-1)}))


@pytest.mark.parametrize(("rule", "rate"), [("linear", 0.04), ("sqrt", 0.02)])
def test_a_tied_rate_follows_the_batch(rule: str, rate: float) -> None:
    space = {"batch": choice([64, 256]), "lr0": tied(loguniform(1e-3, 1.0), rule, at=64)}
    assert settings_of(space, {"batch": 64, "lr0": 0.01}, 16)["lr0"] == pytest.approx(0.01)
    assert settings_of(space, {"batch": 256, "lr0": 0.01}, 16)["lr0"] == pytest.approx(rate)


def test_a_tied_rate_takes_the_batch_of_the_config_where_none_is_chosen() -> None:
    space = {"lr0": tied(loguniform(1e-3, 1.0), "linear", at=64)}
    assert settings_of(space, {"lr0": 0.01}, 32)["lr0"] == pytest.approx(0.005)


@pytest.mark.parametrize("make", [lambda: choice([]), lambda: loguniform(0, 1)])
def test_impossible_dimensions_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()  # type: ignore[operator]
