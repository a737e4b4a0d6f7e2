"""Which epochs tell of a run's company: those in which it did not change."""

from orchestrator.schedule.company import Company, Place
from orchestrator.types import NodeId, Progress, RunId

CARD: Place = (NodeId("n"), 0)
OTHER: Place = (NodeId("n"), 1)
A, B, GANG = RunId("a"), RunId("b"), RunId("gang")


def done(seconds: float = 10.0, *, recuts: int = 0) -> Progress:
    return Progress(
        epoch=1, epochs=9, metrics={}, seconds=seconds, num_images=500, num_recuts=recuts
    )


def alone() -> Company:
    company = Company()
    company.came(A, "sa", "kind", [CARD], 0.0)
    return company


def test_an_epoch_alone_has_its_speed_and_the_first_is_marked() -> None:
    company = alone()
    first, second = company.completed(A, done(12.0), 12.0), company.completed(A, done(), 22.0)
    assert first is not None
    assert second is not None
    assert (first.is_first, second.is_first) == (True, False)
    assert (second.images_per_second, second.beside, second.kind) == (50.0, (), "kind")


def test_an_epoch_in_which_somebody_comes_or_leaves_tells_nothing() -> None:
    company = alone()
    company.completed(A, done(), 10.0)
    company.came(B, "sb", "kind", [CARD], 15.0)
    assert company.completed(A, done(), 20.0) is None
    beside = company.completed(A, done(), 30.0)
    assert beside is not None
    assert beside.beside == ("sb",)
    company.left(B, 35.0)
    assert company.completed(A, done(), 40.0) is None
    again = company.completed(A, done(), 50.0)
    assert again is not None
    assert again.beside == ()


def test_whoever_comes_and_goes_within_an_epoch_is_noticed() -> None:
    company = alone()
    company.completed(A, done(), 10.0)
    company.came(B, "sb", "kind", [CARD], 12.0)
    company.left(B, 18.0)
    assert company.completed(A, done(), 20.0) is None


def test_a_first_epoch_with_a_change_tells_nothing() -> None:
    company = alone()
    company.came(B, "sb", "kind", [CARD], 5.0)
    assert company.completed(A, done(), 10.0) is None
    first = company.completed(B, done(), 15.0)
    assert first is not None
    assert first.is_first
    assert first.beside == ("sa",)


def test_other_cards_are_no_company() -> None:
    company = alone()
    company.completed(A, done(), 10.0)
    company.came(B, "sb", "kind", [OTHER], 15.0)
    assert company.completed(A, done(), 20.0) is not None


def test_another_cut_is_a_change_for_all_on_the_card() -> None:
    company = alone()
    company.came(B, "sb", "kind", [CARD], 0.0)
    for run_id in (A, B):
        company.completed(run_id, done(), 10.0)
    company.recut(B, "sb", 12.0)  # as it was
    assert company.completed(A, done(), 20.0) is not None
    company.recut(B, "sb smaller", 25.0)
    assert company.completed(A, done(), 30.0) is None
    assert company.completed(B, done(), 30.0) is None
    after = company.completed(A, done(), 40.0)
    assert after is not None
    assert after.beside == ("sb smaller",)
    assert company.completed(A, done(recuts=1), 50.0) is None


def test_gangs_are_company_and_tell_nothing_themselves() -> None:
    company = alone()
    company.came(GANG, "sg", "kind", [CARD, OTHER], 0.0)
    for run_id in (A, GANG):
        company.completed(run_id, done(), 10.0)
    assert company.completed(GANG, done(), 20.0) is None
    beside = company.completed(A, done(), 20.0)
    assert beside is not None
    assert beside.beside == ("sg",)


def test_who_is_not_there_tells_nothing_and_may_leave() -> None:
    company = alone()
    company.left(B, 5.0)
    company.recut(B, "sb", 5.0)
    assert company.completed(B, done(), 10.0) is None
    assert company.completed(A, done(), 10.0) is not None
    company.left(A, 20.0)
    company.came(A, "sa", "kind", [CARD], 30.0)
    returned = company.completed(A, done(), 40.0)
    assert returned is not None
    assert returned.is_first
