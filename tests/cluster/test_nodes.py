"""Names of nodes, and which changes of their cards are worth an event."""

from dataclasses import replace

import pytest

from orchestrator.cluster.nodes import has_changed, host_bytes_of, node_names
from orchestrator.types import Card, Node, NodeId

GIB = 1024**3
NODE = Node(node_id=NodeId("a"), cards=(Card(index=0, name="c", memory_bytes=8 * GIB),))


def test_nodes_are_called_by_their_host_and_longer_only_where_it_is_taken() -> None:
    names = node_names({}, {"11112222": "lab", "33334444": "lab", "55556666": "desk"})
    assert names == {"11112222": "lab", "33334444": "lab-334444", "55556666": "desk"}


def test_a_name_stays_while_the_node_is_there_and_is_free_afterwards() -> None:
    known = node_names({}, {"1111": "lab", "2222": "lab"})
    assert node_names(known, {"2222": "lab"}) == {"2222": "lab-2222"}
    assert node_names({}, {"3333": "lab"}) == {"3333": "lab"}


def test_nodes_that_a_launcher_counts_up_are_told_apart() -> None:
    ids = [f"{'f' * 50}{number:06x}" for number in range(300)]
    names = node_names({}, dict.fromkeys(ids, "lab"))
    assert len(set(names.values())) == len(ids)
    alike = [f"{number:02x}{'0' * 54}" for number in range(3)]
    assert len(set(node_names({}, dict.fromkeys(alike, "lab")).values())) == 3


def with_card(**facts: object) -> Node:
    return replace(NODE, cards=(replace(NODE.cards[0], **facts),))  # type: ignore[arg-type]  # any field


def test_a_notable_change_of_foreign_memory_is_told_and_noise_is_not() -> None:
    assert not has_changed(NODE, with_card(foreign_bytes=GIB // 100))
    assert has_changed(NODE, with_card(foreign_bytes=GIB))
    assert has_changed(NODE, with_card(uuid="GPU-1"))
    assert has_changed(NODE, replace(NODE, cards=()))
    assert not has_changed(NODE, NODE)


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"memory": 8.0 * GIB}, 8 * GIB),
        ({"memory": 8.0 * GIB + 5e6, "CPU": 4.0}, 8 * GIB),
        ({"memory": 8.0 * GIB - 1}, 8 * GIB - GIB // 4),
        ({"memory": 1e8}, 10**8),
        ({"CPU": 4.0}, 0),
    ],
)
def test_equal_machines_tell_equal_ram(told: dict[str, float], counted: int) -> None:
    assert host_bytes_of(told) == counted
