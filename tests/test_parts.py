"""Which device a share of a card gets."""

import pytest

from jobs.parts import LocalParts
from orchestrator.errors import PlanError
from orchestrator.types import Card

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "context"), [("NVIDIA GeForce RTX 2060", 359), ("a card of tomorrow", 708)]
)
def test_a_share_that_does_not_even_hold_the_context_is_refused(name: str, context: int) -> None:
    card = Card(index=0, name=name, memory_bytes=6144 * MIB)
    with pytest.raises(PlanError, match="do not hold a training") as caught:
        LocalParts().device(card, context * MIB)
    assert str(context) in caught.value.why[0]


def test_an_emulated_card_has_no_context() -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=6144 * MIB, is_emulated=True)
    assert LocalParts().device(card, 100 * MIB).memory().total_bytes == 6144 * MIB
