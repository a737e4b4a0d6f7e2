"""What a searcher learns of suggestions that were refused, and what trials share of predictions."""

from collections.abc import Mapping, Sequence

import pytest

from orchestrator.errors import ConfigError
from orchestrator.plan.footprint import Footprint
from orchestrator.plan.workload import Labels, Workload
from orchestrator.sweep.block import read_block
from orchestrator.sweep.rounding import RoundedLabels, rounded
from orchestrator.sweep.search import Outcome
from orchestrator.sweep.space import Values, integer
from orchestrator.sweep.store_runs import even_share
from orchestrator.types import Bytes, Card
from tests.sweep.journal import SPACE, define


class Notes:
    """A predictor that notes what it is asked, and has no answer."""

    def __init__(self) -> None:
        self.asked: list[Workload] = []

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        self.asked += [workload for workload, _ in asked]
        return []

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        self.asked.append(workload)
        return {}, {}


def workload(labels: Labels | None) -> Workload:
    return Workload(
        trainer="yolo", model="yolo11n.yaml", imgsz=64, num_classes=3, task="detect", labels=labels
    )


@pytest.mark.parametrize("most", [0, 1, 2, 3, 64, 65, 777])
def test_rounded_labels_are_never_fewer_and_less_than_twice_as_many(most: int) -> None:
    given = Labels(most=most, mean=most * 0.7)
    found = rounded(given)
    assert given.most <= found.most <= max(64, 2 * given.most)
    assert given.mean <= found.mean <= max(64.0, 2 * given.mean)
    assert found.area == given.area
    assert rounded(found) == found


def test_trials_that_differ_in_their_mosaic_share_a_prediction() -> None:
    notes = Notes()
    predictor = RoundedLabels(notes)
    for most, mean in ((140, 18.2), (153, 25.0), (256, 61.9)):
        predictor.footprints([(workload(Labels(most=most, mean=mean)), [4])])
        predictor.breakdown(workload(Labels(most=most, mean=mean)), 4)
    assert set(notes.asked) == {workload(Labels(most=256, mean=64.0))}


def test_what_has_no_boxes_is_predicted_as_it_is() -> None:
    notes = Notes()
    RoundedLabels(notes).footprints([(workload(None), [4])])
    assert notes.asked == [workload(None)]


def test_refused_suggestions_are_kept_and_do_not_bend_the_model() -> None:
    optuna = pytest.importorskip("optuna")
    from orchestrator.sweep.search_optuna import OptunaSearch

    bare, told = OptunaSearch(SPACE, seed=1), OptunaSearch(SPACE, seed=1)
    for number in range(1, 21):
        values = {"lr0": 10.0 ** -(number % 4), "batch": 16 << number % 5}
        for search in (bare, told):
            search.take(number, values)
            search.tell(number, Outcome(scores=(float(number % 7),)))
    for number in range(21, 31):
        told.take(number, {"lr0": 0.5, "batch": 256})
        told.tell(number, Outcome(violations={"memory": 0.5}, is_refused=True))
    assert told.suggest(31) == bare.suggest(31)
    kept = [t for t in told.study.trials if t.state is optuna.trial.TrialState.FAIL]
    assert [trial.constraints for trial in kept] == [{"memory": 0.5}] * 10


def test_a_gaussian_process_asks_for_nothing_beyond_a_border_that_is_known() -> None:
    pytest.importorskip("optuna")
    from orchestrator.sweep.search_optuna import OptunaSearch

    space = {**SPACE, "imgsz": integer(64, 640, 32)}

    def fits(values: Values) -> bool:
        return values["batch"] in (16, 32) and float(str(values["imgsz"])) <= 480

    def suggested() -> list[Values]:
        search, found = OptunaSearch(space, seed=4, num_startup=4, model="gp", fits=fits), []
        for number in range(1, 25):
            values = search.suggest(number)
            assert values is not None
            found.append(values)
            # the best lies beyond the border, and the process learns that it goes that way
            outcome = Outcome(scores=(float(str(values["batch"])) + float(str(values["imgsz"])),))
            if not fits(values):
                outcome = Outcome(violations={"memory": 1.0}, is_refused=True)
            search.tell(number, outcome)
        return found

    found = suggested()
    assert found == suggested()
    fitting = [values for values in found if fits(values)]
    by_chance = found.index(fitting[3]) + 1
    assert by_chance < 20
    assert all(fits(values) for values in found[by_chance:])


@pytest.mark.parametrize("block", [{"scheduler": "asha"}, {"limits": {"seconds_per_epoch": 3.0}}])
def test_a_gaussian_process_with_what_it_cannot_learn_from_is_refused(
    block: dict[str, object],
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_block({"search": "gp", **block}, define())
    assert caught.value.code == "E1063"


def test_a_gaussian_process_never_ends_trials_early() -> None:
    assert read_block({"search": "gp"}, define(scheduler="asha")).scheduler == "none"


def test_predicted_shares_are_evened_so_that_processes_can_be_kept() -> None:
    cards = [Card(index=0, name="small", memory_bytes=8 << 30)]
    cards.append(Card(index=1, name="large", memory_bytes=80 << 30))
    asked = [100 << 20, 700 << 20, 1 << 30, (1 << 30) + 1, 4 << 30]
    assert [even_share(each, cards) >> 30 for each in asked] == [1, 1, 1, 2, 4]
    assert even_share(5 << 30, cards) == 5 << 30  # more than half a card is left as it is
    assert even_share(700 << 20, cards, limit=800 << 20) == 800 << 20
    assert even_share(700 << 20, []) == 700 << 20
