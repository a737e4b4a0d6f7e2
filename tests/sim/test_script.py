"""Scripts come from plain values; a wrong key names the nearest right one."""

from typing import Any

import pytest

from orchestrator.cluster.script import Script, events
from orchestrator.errors import ConfigError
from orchestrator.messages import NodeLost, RunSubmitted

NODE: dict[str, Any] = {"count": 2, "gpu": "A100", "memory_gib": 40}
PLAIN: dict[str, Any] = {
    "seed": 3,
    "nodes": [NODE],
    "runs": {"count": 5, "gangs": {1: 3, 2: 1}},
    "faults": {"node_losses": 1},
}


def test_a_script_describes_what_happens_in_the_order_of_time() -> None:
    happened = events(Script.of(PLAIN))
    assert [event.at for event in happened] == sorted(event.at for event in happened)
    assert sum(isinstance(event, RunSubmitted) for event in happened) == 5
    assert sum(isinstance(event, NodeLost) for event in happened) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sed": 1}, "unknown key sed"),
        ({"runs": {"count": 5, "epocs": [1, 2]}}, "unknown key runs.epocs"),
        ({"runs": {}}, "missing key runs.count"),
        ({"runs": {"count": "many"}}, "runs.count is 'many'"),
        ({"runs": {"count": -1}}, "runs.count is -1"),
        ({"runs": {"count": 5, "epochs": [9, 2]}}, "runs.epochs"),
        ({"runs": {"count": 5, "gangs": {"one": 1}}}, "runs.gangs"),
        ({"runs": None}, "runs must hold keys"),
        ({"runs": {"count": 5, "gangs": {1.5: 1}}}, "runs.gangs"),
        ({"runs": {"count": 5, "gangs": [1]}}, "runs.gangs"),
        ({"nodes": []}, "nodes must be a list"),
        ({"nodes": [{"count": 1, "gpu": "A100"}]}, r"missing key nodes\[0\].memory_gib"),
        ({"preempt": 1}, "preempt is 1"),
        ({"runs": {"count": 5, "ram_gib": [9, 2]}}, "runs.ram_gib"),
        ({"runs": {"count": 5, "ram_gib": [-1, 2]}}, "runs.ram_gib"),
        ({"nodes": [{**NODE, "ram_gib": -1}]}, r"nodes\[0\].ram_gib is -1"),
    ],
)
def test_a_mistake_in_a_script_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Script.of({**PLAIN, **change})


def test_an_unknown_key_comes_with_the_nearest_valid_one() -> None:
    with pytest.raises(ConfigError) as caught:
        Script.of({**PLAIN, "faults": {"node_loses": 1}})
    assert caught.value.fix == ("faults.node_losses",)


def test_weight_tables_may_have_their_numbers_as_text() -> None:
    as_text = Script.of({**PLAIN, "runs": {"count": 5, "gangs": {"1": 3, "2": 1}}})
    assert events(as_text) == events(Script.of(PLAIN))


def test_what_is_not_a_mapping_is_no_script() -> None:
    with pytest.raises(ConfigError, match="the file must hold"):
        Script.of(["seed"])
