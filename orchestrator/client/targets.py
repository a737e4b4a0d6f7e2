"""Which cards a plan is made for: named ones, a size alone, the catalogue, or those of here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.client.fitting import kinds_of
from orchestrator.client.suggest import model_target
from orchestrator.config.fields import memory_size
from orchestrator.config.load import Config
from orchestrator.device.catalogue import catalogue, emulated_cards, find_card
from orchestrator.errors import ConfigError
from orchestrator.plan.budget import LEAST_BUDGET, Target
from orchestrator.types import Bytes

__all__ = ["Asked", "Cards", "size_of", "targets_of"]

Asked = tuple[tuple[Target, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """Which cards a person asked about.

    `names` are of the catalogue, each may be several, separated by commas; `memory` is a budget by
    hand, on each card or alone; `is_every` asks about every card of the catalogue.
    """

    names: Sequence[str] = ()
    memory: str | None = None
    is_every: bool = False


def size_of(text: str) -> Bytes:
    """Bytes of a size with its unit, such as 8GiB.

    Raises:
        ConfigError: E1060, not a size, or below 64 MiB.
    """
    try:
        return memory_size(text)
    except ValueError as error:
        raise ConfigError(
            f"--memory {text[:40]!r} {error}",
            code="E1060",
            fix=(f"such as --memory 8GiB; at least {LEAST_BUDGET >> 20}MiB",),
        ) from None


def targets_of(cards: Cards, config: Config) -> Asked:
    """The cards to plan for, and a remark for people where they were not asked for by name.

    Args:
        cards: What was asked.
        config: Says whether cards are emulated.

    Raises:
        ConfigError: E1050 to E1053, no such card; E1060, no such size; E1061, both names and all.
    """
    limit = None if cards.memory is None else size_of(cards.memory)
    words = [word.strip() for name in cards.names for word in name.split(",") if word.strip()]
    if words and cards.is_every:
        raise ConfigError(
            "--gpu and --all-gpus exclude each other", code="E1061", fix=("leave one out",)
        )
    remark = ""
    if words:
        targets = [model_target(find_card(word)) for word in words]
    elif cards.is_every:
        targets = [model_target(model) for model in catalogue()]
    elif config.emulate:
        targets = list(kinds_of(emulated_cards(config.emulate), ()))
    elif limit is not None:
        name = f"a card of {cards.memory}"
        targets = [Target(name=name, memory_bytes=limit, is_size_alone=True)]
    else:
        targets, remark = _here()
    limited = (replace(target, limit_bytes=limit) for target in targets)
    return tuple(dict.fromkeys(limited)), remark


def _here() -> tuple[list[Target], str]:
    from orchestrator.device.nvml import survey

    cards, _ = survey()
    if cards:
        return list(kinds_of(cards, ())), ""
    every = [model_target(model) for model in catalogue()]
    return every, "there is no GPU here: this is for every card of the catalogue (--gpu NAME: one)"
