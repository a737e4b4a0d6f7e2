"""Planning ahead: what is foreseen holds for the cards that were foreseen, and for no others."""

from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.device.catalogue import emulated_cards
from orchestrator.sweep.ahead import Ahead
from orchestrator.sweep.ports import Judgement
from orchestrator.sweep.reading import load_sweep
from orchestrator.sweep.space import Values
from orchestrator.sweep.store_runs import trial_planner
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.types import Card
from tests.sweep.stored import config


class Asked(StubRuns):
    """Runs of which it is counted how often they are planned."""

    count = 0

    def judge(self, settings: Values) -> Judgement:
        self.count += 1
        return super().judge(settings)


def foreseen(folder: Path, memory: str, cards: tuple[Card, ...]) -> tuple[int, list[str]]:
    """How often a sweep for cards of 1 GiB is planned on these, and what is said of it."""
    told = config(resources={"memory": memory}) | {"cluster": {"emulate": ["custom 1GiB"]}}
    definition = load_sweep(told, name="night", space={"batch": [16, 32]}, metric="map")
    client, runs, said = Client(folder), Asked(), list[str]()
    with client.store() as store:
        ahead = Ahead(definition, client, store, lambda: trial_planner(client, said.append))
        ahead.joined(runs, cards, said.append)
    return runs.count, said


def test_the_cards_that_were_foreseen_are_not_asked_about_again(tmp_path: Path) -> None:
    count, said = foreseen(tmp_path, "4GiB", emulated_cards(["custom 1GiB"]))
    assert count == 0
    assert len(said) == 1
    assert "100% of the space cannot run here" in said[0]


def test_on_other_cards_it_is_planned_anew(tmp_path: Path) -> None:
    count, said = foreseen(tmp_path, "4GiB", emulated_cards(["custom 8GiB"]))
    assert count > 0
    assert said == []


def test_a_space_that_fits_is_not_talked_about(tmp_path: Path) -> None:
    assert foreseen(tmp_path, "512MiB", emulated_cards(["custom 1GiB"])) == (0, [])
