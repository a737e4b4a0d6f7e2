"""Node types of a config: what they become, and mistakes with what would be right."""

import pytest

from orchestrator.config.load import load_shared
from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError
from orchestrator.types import NodeType


def types(words: str, *more: str) -> tuple[NodeType, ...]:
    given = ["cluster.address=auto", f"cluster.node_types={words}", *more]
    return load_shared(given, environment={}).node_types


def test_the_catalogue_says_what_a_card_has_and_memory_what_a_node_costs() -> None:
    small, big = types("{small: {gpu: RTX-4090, max: 4}, big: {gpu: A100 80GB, gpus: 8, max: 2}}")
    card = find_card("RTX 4090")
    assert (small.gpu, small.memory_bytes, small.num_cards) == (
        card.nvml_name,
        card.memory_bytes,
        1,
    )
    assert (small.max_nodes, dict(small.labels)) == (4, {"orc.node-type": "small"})
    assert big.num_cards == 8
    assert small.price < big.price


def test_a_card_that_is_not_in_the_catalogue_is_described_by_its_memory() -> None:
    (kind,) = types("{lab: {gpu: B900, memory: 300GiB, max: 1, price: 2, cpus: 16, ram: 64GiB}}")
    assert (kind.gpu, kind.memory_bytes, kind.price) == ("B900", 300 << 30, 2.0)
    assert (kind.num_cpus, kind.host_bytes) == (16.0, 64 << 30)


def test_nodes_without_cards_are_cheaper_than_any_with() -> None:
    cpu, card = types("{cpu: {cpus: 64, max: 1}, t4: {gpu: T4, max: 1}}")
    assert (cpu.num_cards, cpu.gpu) == (0, "")
    assert cpu.price < card.price


def test_labels_are_those_of_the_cluster_where_they_are_given() -> None:
    (kind,) = types("{a: {gpu: L4, max: 1, labels: {ray.io/node-group: l4, zone: eu}}}")
    assert dict(kind.labels) == {"ray.io/node-group": "l4", "zone": "eu"}


def test_how_long_to_wait_for_room_and_for_nodes() -> None:
    given = ["cluster.node_wait=5m", "cluster.node_late=1h"]
    config = load_shared(given, environment={})
    assert (config.node_wait, config.node_late) == (300.0, 3600.0)


@pytest.mark.parametrize(
    ("words", "told", "fix"),
    [
        ("{a: {gpu: RTX-4091, max: 1}}", "a.gpu: 'RTX-4091' is not a GPU", "memory: 24564MiB"),
        ("{a: {gpu: RTX-4091, max: 1}}", "nearest: RTX 4090", "memory: 24564MiB"),
        ("{a: {memory: 24GiB, max: 1}}", "a.memory: a node type with memory", "gpu: a name"),
        ("{a: {gpu: L4, min: 3, max: 1}}", "a.min: is 3, above max, which is 1", "min: 0 to 1"),
        ("{a: {gpu: L4}}", "a.max is missing", "add max"),
        ("{a: {gpu: L4, maxx: 1, max: 1}}", "a.maxx is not a known key", "max"),
        ("{a: {gpu: L4, max: -1}}", "a.max must be at least 0", ""),
        ("{A B: {gpu: L4, max: 1}}", "the name", "such as small"),
        ("{a: {gpu: L4, max: 1, labels: {k: 'x y'}}}", "k='x y' is no label", "letters, digits"),
        (
            "{a: {gpu: L4, max: 1}, b: {gpu: T4, max: 1, labels: {orc.node-type: a}}}",
            "b.labels: are those of node type a too",
            "orc.node-type: b",
        ),
        ("{a: {gpu: L4, max: 1, price: 2}, b: {gpu: T4, max: 1}}", "b.price: is missing", "price"),
    ],
)
def test_mistakes_name_the_key_and_what_would_be_right(words: str, told: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        types(words)
    error = caught.value
    assert told in " ".join((error.what, *error.why))
    assert "cluster.node_types" in error.what
    assert fix in " ".join(error.fix)
