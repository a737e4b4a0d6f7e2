"""A sweep's record in memory, whose writer can be killed at a chosen moment."""

from collections.abc import Callable, Sequence

from orchestrator.store.sweeps import SweepEntry
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.events import SweepEvent, entry_of, event_of
from orchestrator.sweep.search import GridSearch, RandomSearch, Searcher
from orchestrator.sweep.space import choice, loguniform
from orchestrator.sweep.stub_runs import StubRuns

__all__ = ["SPACE", "Journal", "Killed", "conduct", "define", "searcher_of"]

SPACE = {"lr0": loguniform(1e-4, 1.0), "batch": choice([16, 32, 64, 128, 256])}


class Killed(Exception):  # noqa: N818 - it is the power cut of a test, not an error of the product
    """The process ends here."""


class Journal:
    """Keeps entries as the store would, by their keys; dies before or after chosen writes."""

    def __init__(self) -> None:
        self.entries: dict[str, SweepEntry] = {}
        self.dies_in: Callable[[], int] | None = None  # 0: before the write, 1: after it

    def record(self, events: Sequence[SweepEvent]) -> None:
        fate = self.dies_in() if self.dies_in else 2
        if fate == 0:
            raise Killed
        for event in events:
            entry = entry_of(event)
            assert entry.key not in self.entries, f"{entry.key} is recorded twice"
            self.entries[entry.key] = entry
        if fate == 1:
            raise Killed

    def events(self) -> list[SweepEvent]:
        return [event_of(entry) for entry in self.entries.values()]


def define(**changes: object) -> Definition:
    made = {
        "name": "night",
        "metrics": ("score",),
        "modes": ("max",),
        "space": SPACE,
        "config": "",
        "folder": "",
        "project": "stub",
        "search": "random",
        "epochs": 9,
    }
    return Definition(**{**made, **changes})  # type: ignore[arg-type]


def searcher_of(definition: Definition) -> Searcher:
    if definition.search in ("tpe", "gp"):
        from orchestrator.sweep.search_optuna import OptunaSearch

        return OptunaSearch(definition.space, seed=definition.seed, model=definition.search)
    if definition.search == "grid":
        return GridSearch(definition.space)
    return RandomSearch(definition.space, definition.seed)


def conduct(
    definition: Definition,
    runs: StubRuns,
    journal: Journal,
    said: Callable[[str], None] | None = None,
) -> Conductor:
    """Conduct from what is recorded to the end, or to the moment of death."""
    conductor = Conductor(definition, searcher_of(definition), runs, journal, lambda: 0.0, said)
    conductor.replay(journal.events())
    while not conductor.is_done:
        conductor.advance()
    return conductor
