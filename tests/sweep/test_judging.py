"""Values are judged by those that bear on memory, each combination once."""

from pathlib import Path

from orchestrator.sweep.judging import judging
from orchestrator.sweep.ports import Judgement
from orchestrator.sweep.reading import load_sweep
from orchestrator.sweep.space import Values
from orchestrator.sweep.stub_runs import StubRuns
from tests.sweep.stored import config

SPACE = {"lr0": {"loguniform": [1e-4, 0.1]}, "batch": [16, 32]}


class Heard(StubRuns):
    """Runs that remember what they were asked to judge; a batch of 32 does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, object]] = []

    def judge(self, settings: Values) -> Judgement:
        self.asked.append(dict(settings))
        is_large = settings.get("batch") == 32
        return Judgement(violations={"memory": 1.0} if is_large else {})


def test_rates_are_left_out_and_each_combination_is_planned_once(tmp_path: Path) -> None:
    definition = load_sweep(config(), name="night", space=SPACE, metric="map")
    runs = Heard()
    judge = judging(definition, runs)
    found = [
        judge({"lr0": rate, "batch": batch}).fits for rate in (0.001, 0.01) for batch in (16, 32)
    ]
    assert found == [True, False, True, False]
    assert [settings["batch"] for settings in runs.asked] == [16, 32]
    assert all("lr0" not in settings for settings in runs.asked)
