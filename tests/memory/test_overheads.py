"""What a card holds beyond the replayed bytes, both ways, with sources."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.device.catalogue_file import ARCHITECTURES
from orchestrator.plan.footprint import Demand
from orchestrator.plan.overheads import driver_bytes, overheads

GIB = 1 << 30
CARDS = (*ARCHITECTURES, "custom")


def demand(least: int) -> Demand:
    return Demand(micro_batch=1, allocated_bytes=least, reserved_bytes=2 * least, least_bytes=least)


@given(
    architecture=st.sampled_from(CARDS),
    free=st.integers(0, 200 * GIB),
    world=st.sampled_from((1, 4)),
)
@settings(deadline=None)
def test_the_capacity_is_the_most_that_is_needed_within_the_free_bytes(
    architecture: str, free: int, world: int
) -> None:
    found = overheads(architecture, world_size=world, parameter_bytes=100 << 20)
    least = found.capacity(free)
    if least:
        assert found.needed_bytes(demand(least)) <= free
    assert found.needed_bytes(demand(least + 2)) > free


@pytest.mark.parametrize("architecture", CARDS)
def test_every_figure_has_a_source_and_a_confidence(architecture: str) -> None:
    found = overheads(architecture, world_size=2, has_lazy_loading=False)
    assert {"context", "factor", "cublas", "constant", "nccl", "eager_loading"} <= set(
        found.figures
    )
    for figure in found.figures.values():
        assert figure.value > 0
        assert figure.source
        assert figure.confidence in ("guess", "published", "measured")
    assert found.confidence == "guess"  # NCCL's


def test_on_ampere_everything_is_published_and_elsewhere_less_is_known() -> None:
    assert overheads("Ampere").confidence == "published"
    assert overheads("Hopper").confidence == overheads("Pascal").confidence == "guess"


def test_cards_before_ampere_are_planned_with_a_larger_factor() -> None:
    least = demand(4 * GIB)
    old, new = overheads("Turing"), overheads("Ampere")
    assert old.needed_bytes(least) > 1.15 * new.needed_bytes(least)
    assert old.factor == 1.25
    assert new.factor == new.likely_factor == 1.03


def test_on_turing_what_is_likely_is_less_than_what_is_planned_with() -> None:
    old = overheads("Turing")
    assert 1.02 <= old.likely_factor <= 1.18  # what public runs on a T4 asked for after epoch 1
    assert old.likely_factor < old.factor


@pytest.mark.parametrize("architecture", CARDS)
def test_what_is_likely_has_a_constant_where_runs_ask_for_it(architecture: str) -> None:
    found, nothing = overheads(architecture), demand(0)
    has_none = architecture in ("Ampere", "Hopper")
    assert ("likely_constant" in found.figures) is not has_none
    rest = found.likely_bytes(nothing) - found.outside_bytes
    assert rest - found.likely_factor * found.inside_bytes == pytest.approx(
        0 if has_none else found.constant_bytes, abs=1
    )
    assert found.needed_bytes(nothing) >= found.likely_bytes(nothing)  # planned with everywhere


def test_on_hopper_the_context_is_what_nvidia_smi_showed_beyond_gpu_mem() -> None:
    shown = 16068 << 20
    low, high = 14.95 * GIB, 15.05 * GIB  # "15" in the log
    assert shown - high <= overheads("Hopper").outside_bytes <= shown - low
    assert overheads("Blackwell").outside_bytes == overheads("Hopper").outside_bytes


def test_of_an_unknown_card_the_worst_of_all_is_assumed() -> None:
    least = demand(3 * GIB)
    worst = overheads("custom").needed_bytes(least)
    assert worst >= max(overheads(name).needed_bytes(least) for name in ARCHITECTURES)


def test_cublas_takes_eight_mib_by_default_and_thirty_two_on_hopper_or_when_deterministic() -> None:
    small = overheads("Ada", is_deterministic=False).inside_bytes
    assert small == 2 * 8_519_680
    assert overheads("Ada").inside_bytes == 2 * (32 << 20)
    assert overheads("Hopper", is_deterministic=False).inside_bytes == 2 * (32 << 20)


def test_a_gang_takes_a_flat_copy_and_nccl_besides() -> None:
    one, four = overheads("Ampere"), overheads("Ampere", world_size=4, parameter_bytes=GIB)
    assert four.inside_bytes - one.inside_bytes == GIB
    assert four.outside_bytes > one.outside_bytes + GIB // 2


def test_the_reserve_is_the_need_without_what_lies_beside_the_allocator() -> None:
    found = overheads("Ada")
    least = demand(GIB)
    assert found.needed_bytes(least) - found.reserve_bytes(least) == found.outside_bytes
    assert found.likely_bytes(least) > found.needed_bytes(least)  # it reserves twice as much


@pytest.mark.parametrize(
    ("nvml_gib", "torch_gib"),
    [(8, 7.79), (15, 14.75), (15, 14.56), (22.494, 22.03), (24, 23.70), (40, 39.6), (80, 79.21)],
)
def test_what_the_driver_keeps_is_near_what_torch_was_seen_to_miss(
    nvml_gib: float, torch_gib: float
) -> None:
    kept = driver_bytes(int(nvml_gib * GIB)) / GIB
    assert kept == pytest.approx(nvml_gib - torch_gib, abs=0.14)
    assert driver_bytes(10) == 10
