"""What labels of nodes say of their cards, and what a wanted number of nodes asks of Ray."""

import pytest
from ray._private.label_utils import validate_label_selector

from orchestrator.cluster.labels import card_in, cards_of_type
from orchestrator.cluster.scaling import requests_for
from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError
from orchestrator.selectors import normal
from orchestrator.types import NodeType

EMULATED = {"orc.node-type": "small", "orc.emulated": "true"}


@pytest.mark.parametrize("gib", ["22.5", "24"])
def test_the_memory_on_the_box_and_that_of_the_driver_are_the_same_card(gib: str) -> None:
    card = find_card("L4")
    found = card_in({"orc.card": "NVIDIA-L4", "orc.card-gib": gib})
    assert found == (card.nvml_name, card.memory_bytes, card)


def test_a_card_that_nobody_knows_has_the_memory_of_its_label() -> None:
    assert card_in({"orc.card": "B900", "orc.card-gib": "300"}) == ("B900", 300 << 30, None)
    with pytest.raises(ConfigError, match="not a GPU of the catalogue"):
        card_in({"orc.card": "B900"})


@pytest.mark.parametrize("gib", ["16", "none", "-1", "nan"])
def test_memory_that_cannot_be_is_refused(gib: str) -> None:
    with pytest.raises(ConfigError, match=r"label orc\.card-gib"):
        card_in({"orc.card": "RTX-4090", "orc.card-gib": gib})


def test_emulated_cards_are_as_many_as_the_node_has_gpus() -> None:
    card = find_card("RTX 4090")
    found = cards_of_type({**EMULATED, "orc.card": "RTX-4090", "orc.card-gib": "24"}, 2)
    assert found is not None
    assert [(c.index, c.name, c.memory_bytes, c.is_emulated) for c in found] == [
        (0, card.nvml_name, card.memory_bytes, True),
        (1, card.nvml_name, card.memory_bytes, True),
    ]


def test_cards_are_asked_of_the_node_where_they_are_real_or_it_was_not_brought() -> None:
    assert cards_of_type({"orc.node-type": "small", "orc.card": "L4"}, 1) is None
    assert cards_of_type({"orc.emulated": "true", "orc.card": "L4"}, 1) is None
    assert cards_of_type({}, 1) is None


def test_a_node_whose_labels_cannot_be_has_no_cards() -> None:
    assert cards_of_type({**EMULATED, "orc.card": "B900"}, 1) == ()


def test_every_node_is_asked_for_by_all_its_cards_and_its_labels() -> None:
    types = {
        "four": NodeType(
            name="four",
            max_nodes=3,
            price=1.0,
            gpu="L4",
            num_cards=4,
            memory_bytes=1,
            labels={"orc.node-type": "four"},
        ),
        "cpu": NodeType(name="cpu", max_nodes=1, price=0.1, labels={"orc.node-type": "cpu"}),
    }
    assert requests_for((("cpu", 1), ("four", 2)), types) == (
        ({"CPU": 1}, {"orc.node-type": "cpu"}),
        ({"GPU": 4}, {"orc.node-type": "four"}),
        ({"GPU": 4}, {"orc.node-type": "four"}),
    )
    assert requests_for((), types) == ()


@pytest.mark.parametrize(
    "condition",
    ["a", "!a", "in(a)", "!in(a, b)", "in(a,b , c)", "A100-80.x_1", "", "-a", "in()", "!!a", "a b"],
)
def test_conditions_are_those_that_ray_takes(condition: str) -> None:
    try:
        written = normal("ray.io/zone", condition)
    except ValueError:
        assert not condition or validate_label_selector({"ray.io/zone": condition}) is not None
    else:
        assert validate_label_selector({"ray.io/zone": written}) is None
