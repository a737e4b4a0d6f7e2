"""What the summed gradients of a gang take, and how they travel, measured with ranks of gloo."""

from typing import Any

import pytest

from jobs.rank_processes import found_by_ranks
from orchestrator.plan.overheads import overheads
from tests.trainer.flat_work import flat_work, model
from tests.trainer.gang_work import fitted, reduced, repeated
from tests.trainer.gangs import in_turn

HALF = ({"ddp_compression": "fp16"}, {"ddp_compression": "bf16"})
LOW = {"ddp_compression": "powersgd", "ddp_powersgd_start": 2, "ddp_powersgd_rank": 2}


@pytest.fixture(scope="module")
def found() -> list[list[Any]]:
    """What two ranks found in each of the works below."""
    works: list[Any] = [
        *((flat_work, (options,)) for options in ({"ddp_bucket_mb": 1}, *HALF)),
        *((reduced, (options,)) for options in ({}, *HALF)),
        *((fitted, (options, 60)) for options in ({}, LOW)),
        (repeated, ()),
    ]
    return found_by_ranks(2, in_turn, works)


def test_sums_take_what_is_planned_with_and_are_sums(found: list[list[Any]]) -> None:
    weights = sum(parameter.numel() * 4 for parameter in model().parameters())
    for case, compression in enumerate(("none", "fp16", "bf16")):
        one, two = (
            overheads("Ada", world_size=n, parameter_bytes=weights, compression=compression)
            for n in (1, 2)
        )
        planned = two.inside_bytes - one.inside_bytes
        (before, after, first, whole), (_, _, second, same) = (rank[case] for rank in found)
        assert (
            whole
            == same
            == pytest.approx(first + second, rel=1e-5 if compression == "none" else 2e-2)
        )
        # Gradients lie in the buckets: of what is planned with, a step needs less.
        assert after - before == pytest.approx(planned - weights, abs=0.02 * weights)


def test_half_precision_travels_as_in_the_hooks_of_pytorch(found: list[list[Any]]) -> None:
    for rank in found:
        whole, _, all_bytes = rank[3]
        for case, tolerance in ((3, 1e-6), (4, 2e-3), (5, 2e-2)):
            ours, theirs, num_bytes = rank[case]
            assert num_bytes == all_bytes // (1 if case == 3 else 2)
            for name, gradient in ours.items():
                size = float(abs(whole[name]).max())
                assert gradient == pytest.approx(theirs[name], abs=tolerance * size)
                assert gradient == pytest.approx(whole[name], abs=tolerance * size)
                assert (gradient == found[0][case][0][name]).all()


def test_low_rank_sums_learn_as_well_with_fewer_bytes(found: list[list[Any]]) -> None:
    for rank in found:
        (first, last, num_bytes), (low_first, low_last, low_bytes) = rank[6], rank[7]
        assert low_first == pytest.approx(first)
        assert last < 1e-3 * first
        assert low_last < 1e-2 * first
        assert low_bytes < num_bytes / 3


def test_a_step_that_one_rank_cannot_end_is_repeated_by_all(found: list[list[Any]]) -> None:
    for rank in found:
        plain, again, different = rank[8]
        assert not different
        assert all((plain[name] == again[name]).all() for name in plain)
        assert plain["total"].tolist() == [3.0, 3.0, 3.0]
