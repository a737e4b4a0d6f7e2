"""What of a card may be planned with."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.plan.budget import Headroom, budget_of, default_headroom
from orchestrator.plan.overheads import driver_bytes
from tests.plan.hand_made import GIB, MIB, target


@given(small=st.integers(2 * GIB, 200 * GIB), more=st.integers(0, 50 * GIB))
def test_a_larger_card_never_has_the_smaller_budget(small: int, more: int) -> None:
    budgets = [total - default_headroom(total) for total in (small, small + more)]
    assert budgets == sorted(budgets)
    assert 0.89 <= budgets[0] / small <= 0.96
    real = [budget_of(target(total / GIB), Headroom()) for total in (small, small + more)]
    assert real == sorted(real)
    assert 0.79 <= real[0] / small <= 0.95  # the driver's 0.2 GiB are a tenth of 2 GiB


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 24, 48, 80])
def test_the_headroom_is_left_of_what_cuda_offers_on_real_cards_only(gib: int) -> None:
    card = target(gib)
    kept = default_headroom(gib * GIB)
    assert card.driver_bytes == driver_bytes(gib * GIB) > 0
    assert budget_of(card, Headroom()) == gib * GIB - driver_bytes(gib * GIB) - kept
    assert budget_of(card, Headroom()) + kept == card.free_bytes
    emulated = replace(card, is_emulated=True)
    assert (emulated.driver_bytes, emulated.free_bytes) == (0, gib * GIB)
    assert budget_of(emulated, Headroom()) == gib * GIB - kept


def test_headroom_is_bytes_or_a_share_or_the_default() -> None:
    card = target(24)
    own = driver_bytes(24 * GIB)
    assert budget_of(card, Headroom(num_bytes=GIB)) == 23 * GIB - own
    assert budget_of(card, Headroom(fraction=0.25)) == 18 * GIB - own
    assert budget_of(card, Headroom()) == 24 * GIB - own - default_headroom(24 * GIB)


def test_what_others_hold_is_not_ours_and_a_limit_by_hand_takes_the_place_of_the_headroom() -> None:
    own = driver_bytes(24 * GIB)
    assert budget_of(target(24, foreign=4 * GIB), Headroom(num_bytes=GIB)) == 19 * GIB - own
    assert budget_of(target(24, limit=8 * GIB), Headroom(num_bytes=GIB)) == 8 * GIB
    assert budget_of(target(6, limit=8 * GIB), Headroom()) == 6 * GIB - driver_bytes(6 * GIB)
    alone = replace(target(8, limit=8 * GIB), is_size_alone=True)
    assert budget_of(alone, Headroom()) == 8 * GIB


@pytest.mark.parametrize(
    "card",
    [target(6, foreign=6 * GIB), target(6, limit=MIB), target(6, limit=-5), target(0.05)],
)
def test_a_budget_of_nothing_is_an_error_with_a_remedy(card: object) -> None:
    with pytest.raises(PlanError) as caught:
        budget_of(card, Headroom())  # type: ignore[arg-type] # parametrized
    assert caught.value.code == "E2020"
    assert caught.value.exit_code == 5
    assert caught.value.why
    assert caught.value.fix
