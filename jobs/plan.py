"""Plans, recommends and shows the book: `orc plan`, `orc recommend`, `orc memory book`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.client import survey
from orchestrator.client.access import Client
from orchestrator.client.plans import Planner
from orchestrator.client.targets import targets_of
from orchestrator.config.check import check_files
from orchestrator.config.load import load_config, load_shared
from orchestrator.console import plan as console
from orchestrator.console.say import say
from orchestrator.memory.predict import Predictor

__all__ = ["Cards", "book", "plan", "planner_of", "predictor_of", "recommend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """Which cards a person asked about."""

    names: Sequence[str] = ()
    memory: str | None = None
    is_every: bool = False


def predictor_of(client: Client) -> Predictor:
    """The predictor of this machine, which tells when it has to trace."""
    from orchestrator.memory.traced import TracedPredictor

    return TracedPredictor(client.home / "memory", note=say)


def planner_of(client: Client) -> Planner:
    """What plans runs for a store: this machine's predictor, corrected by the store's book."""
    return Planner(predictor_of(client), survey.book_of(client))


def plan(  # noqa: PLR0913 - the options of a command
    path: Path | None,
    words: Sequence[str],
    cards: Cards,
    *,
    home: Path | None,
    as_json: bool,
    verbose: bool = False,
    is_inference: bool = False,
    write: Path | None = None,
    force: bool = False,
    predictor: Predictor | None = None,
) -> int:
    """Plan every project of a config on the cards that were asked about; returns the exit code."""
    config = load_config(path, words)
    targets, remark = targets_of(
        cards.names, memory=cards.memory, is_every=cards.is_every, config=config
    )
    if write is not None:
        survey.demand_writable(write, targets, force=force)
    check_files(config.projects)
    client = Client(home)
    if remark:
        say(remark)
    few = len(targets) <= 4 or verbose
    planner = Planner(
        predictor or predictor_of(client),
        survey.book_of(client),
        has_parts=few and not is_inference,
    )
    if is_inference:
        rows = survey.inference(config, targets, planner, client)
        return console.show_inference(rows, as_json=as_json)
    plans = survey.survey(config, targets, planner, client)
    if write is not None:
        survey.write_config(write, config, plans)
        say(f"wrote {write}")
    return console.show_plans(plans, as_json=as_json, verbose=verbose)


def recommend(
    path: Path | None,
    words: Sequence[str],
    cards: Cards,
    *,
    home: Path | None,
    as_json: bool,
    predictor: Predictor | None = None,
) -> int:
    """Recommend settings for cards, and for a config's projects on them; returns the exit code."""
    is_alone = path is None and all(word.startswith("cluster.") for word in words)
    config = None if is_alone else load_config(path, words)
    targets, remark = targets_of(
        cards.names,
        memory=cards.memory,
        is_every=cards.is_every,
        config=config or load_shared(words),
    )
    client = Client(home)
    if config is not None:
        check_files(config.projects)
    if remark:
        say(remark)
    planner = Planner(predictor or predictor_of(client), survey.book_of(client))
    console.show_advice(survey.advise(config, targets, planner, client), as_json=as_json)
    return 0


def book(*, home: Path | None, as_json: bool) -> int:
    """Show the measured peaks."""
    console.show_book(survey.book_of(Client(home)), as_json=as_json)
    return 0
