"""What one card holds at once, of several projects."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.client.plans import CardPlan
from orchestrator.client.together import together
from orchestrator.config.load import Config, load_config
from orchestrator.plan.budget import Target
from tests.plan.hand_made import GIB, target


@pytest.fixture
def config(tmp_path: Path) -> Config:
    block = "- name: {}\n  model: yolo11n.yaml\n  data: made:digits-detect\n  schedule: {}\n"
    priorities = {"a": "{priority: 10}", "b": "{}", "c": "{priority: 90}"}
    text = "projects:\n" + "".join(block.format(*each) for each in priorities.items())
    (tmp_path / "exp.yaml").write_text(text)
    return load_config(tmp_path / "exp.yaml", [], environment={})


def plan(project: str, share: int | None, card: Target, *, ranks: int = 1) -> CardPlan:
    return CardPlan(
        project=project,
        model="yolo11n.yaml",
        imgsz=640,
        gpu=card.name,
        gpu_memory_bytes=card.memory_bytes,
        effective_batch=16,
        world_size=ranks,
        micro_batch=16,
        accumulation_steps=1,
        precision="fp16",
        predicted_peak_bytes=share and share // 2,
        budget_bytes=card.free_bytes,
        fits=share is not None or None,
        rungs=(),
        confidence="predicted",
        reason="",
        share_bytes=share,
    )


def on(card: Target, config: Config, *plans: CardPlan) -> tuple[Sequence[str], ...]:
    (found,) = together(config, plans, [card])
    assert found.fits == (not found.waiting and not found.impossible)
    assert not found.fits or found.shares_bytes <= found.room_bytes
    return found.starting, found.waiting, found.impossible


def test_all_fit_where_their_shares_add_up_to_at_most_the_room(config: Config) -> None:
    card = target(6)
    plans = [plan(name, 2 * GIB, card) for name in "abc"]
    assert on(card, config, *plans) == (("c", "b", "a"), (), ())
    full = replace(card, foreign_bytes=1)
    assert on(full, config, *plans) == (("c", "b"), ("a",), ())
    (found,) = together(config, plans, [full])
    assert (found.shares_bytes, found.room_bytes) == (6 * GIB, 6 * GIB - 1)


def test_who_fits_passes_who_does_not(config: Config) -> None:
    card = target(6)
    plans = [plan("a", GIB, card), plan("b", 4 * GIB, card), plan("c", 3 * GIB, card)]
    assert on(card, config, *plans) == (("c", "a"), ("b",), ())


def test_what_is_unknown_takes_a_whole_card_and_a_gang_takes_several(config: Config) -> None:
    card = target(6)
    unknown = plan("c", None, card)
    assert on(card, config, plan("a", GIB, card), unknown) == (("c",), ("a",), ())
    gang, large = plan("b", GIB, card, ranks=2), replace(plan("c", None, card), fits=False)
    assert on(card, config, plan("a", GIB, card), gang, large) == (("a",), (), ("c", "b"))


def test_of_a_size_alone_what_is_needed_counts(config: Config) -> None:
    card = replace(target(6, limit=6 * GIB), is_size_alone=True)
    plans = [plan(name, 6 * GIB, card) for name in "ab"]
    assert on(card, config, *plans) == (("b", "a"), (), ())


def test_one_project_and_other_cards_say_nothing(config: Config) -> None:
    card = target(6)
    plans = [plan("a", GIB, card), plan("b", GIB, target(8))]
    assert together(config, plans, [card]) == ()
