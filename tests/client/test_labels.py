"""Whether labels that a run asks for can ever be had, and which cards it is planned for."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.plan import labels_told
from jobs.up import up
from orchestrator.cli.app import main
from orchestrator.client.access import Client
from orchestrator.client.cpus import cards_for, counted
from orchestrator.client.feasible import check_feasible, check_on
from orchestrator.cluster.launcher import types_in
from orchestrator.cluster.layout import planned_nodes
from orchestrator.config.load import load_config
from orchestrator.errors import ConfigError, PlanError
from orchestrator.messages import NodeJoined
from orchestrator.types import Card, NodeType, RunSpec
from tests.strategies import GIB, make_node, make_spec

SMALL, LARGE = ("RTX 2060", 6 * GIB), ("RTX 4090", 24 * GIB)
NODES = (
    make_node("a", LARGE, LARGE, labels={"zone": "west", "disk": "fast"}),
    make_node("b", SMALL, labels={"zone": "east"}),
)
TYPE = NodeType(
    name="t", gpu="RTX 4090", num_cards=1, memory_bytes=24 * GIB, price=1.0, max_nodes=2,
    labels={"orc.node-type": "t", "zone": "north"},
)  # fmt: skip


def refused(spec: RunSpec, *types: NodeType) -> PlanError:
    with pytest.raises(PlanError) as info:
        check_on([spec], NODES, types)
    assert info.value.exit_code == 5
    return info.value


def test_a_label_nobody_has_is_refused_with_the_nearest() -> None:
    error = refused(make_spec(labels={"zonne": "west"}))
    assert error.code == "E2004"
    assert any("the nearest: zone" in line for line in error.fix)
    error = refused(make_spec(labels={"zone": "wets"}), TYPE)
    assert error.code == "E2004"
    assert any("west" in line for line in error.fix)
    assert any("west (1), east (1), may come: north" in line for line in error.why)
    assert refused(make_spec(labels={"zone": "east", "disk": "fast"})).code == "E2004"
    assert refused(make_spec(labels={"zone": "north"})).code == "E2004"


def test_labels_that_are_there_or_may_come_are_fine() -> None:
    check_on([make_spec(labels={"zone": "west"}), make_spec(labels={"zone": "!west"})], NODES)
    check_on([make_spec(labels={"zone": "north"})], NODES, [TYPE])


def test_a_gang_wider_than_the_nodes_with_its_labels_is_refused() -> None:
    wide = make_spec(num_gpus=2, labels={"zone": "east"})
    assert refused(wide).code == "E2001"
    assert refused(make_spec(gib=10, labels={"zone": "east"})).code == "E2004"  # no such card
    one = replace(make_spec(num_gpus=3), is_on_one_node=True)
    assert refused(one).code == "E2001"
    check_on([make_spec(num_gpus=3)], [NODES[0], replace(NODES[0], node_id=NODES[1].node_id)])


def test_this_machine_has_the_labels_of_the_config() -> None:
    cards = (Card(index=0, name="RTX 4090", memory_bytes=24 * GIB),)
    check_feasible([make_spec(labels={"zone": "a"})], cards, {"zone": "a"})
    with pytest.raises(PlanError) as info:
        check_feasible([make_spec(labels={"zone": "a"})], cards)
    assert info.value.code == "E2004"
    # What Ray will call the node is not known before there is one.
    check_feasible([make_spec(labels={"ray.io/accelerator-type": "A100"})], cards)


def test_5_labels_that_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    path = tmp_path / "cells.yaml"
    path.write_text(
        "cluster: {emulate: [RTX 4090], labels: {zone: west}}\n"
        "projects:\n  - {name: cells, model: fake, trainer: fake, data: none,"
        " resources: {labels: {zone: wset}}}\n"
    )
    for command in ("train", "submit"):
        assert main([command, str(path)]) == 5
        err = capsys.readouterr().err
        assert err.startswith("error[E2004]: project cells can never run here")
        assert "the nearest values: west" in err
    assert main(["submit", str(path), "resources.labels.zone=west"]) == 0
    run = capsys.readouterr().out.split()[0]
    assert Client(tmp_path / "home").show(run).spec.labels == {"zone": "west"}
    assert main(["show", run]) == 0
    assert "zone=west" in capsys.readouterr().out


def test_a_run_is_planned_for_the_cards_of_its_nodes(tmp_path: Path) -> None:
    client = Client(tmp_path)
    with client.store() as store, store.drive("test"):
        for node in NODES:
            store.append(NodeJoined(at=1.0, node=node))
        cards = tuple(card for node in NODES for card in node.cards)
        assert cards_for(make_spec(), client, cards) == cards
        assert cards_for(make_spec(labels={"zone": "east"}), client, cards) == NODES[1].cards
        assert cards_for(make_spec(labels={"zone": "none"}), client, cards) == cards


def test_a_plan_says_on_which_nodes_of_the_driver(tmp_path: Path) -> None:
    path = tmp_path / "cells.yaml"
    text = "{name: cells, model: fake, trainer: fake, data: none"
    path.write_text(
        f"projects:\n  - {text}, resources: {{labels: {{zone: west}}}}}}\n"
        f"  - {text.replace('cells', 'any')}}}\n"
    )
    config = load_config(path, environment={"ORC_CONFIG": "none.yaml"})
    (line,) = labels_told(config, ())
    assert line == "cells: only on nodes with zone=west"
    assert labels_told(config, NODES) == [f"{line}, which are 1 of the 2 that the driver has"]


def test_cpus_are_counted_on_the_nodes_where_it_may_be() -> None:
    tight = replace(make_node("tight", LARGE, labels={"zone": "a"}), num_cpus=2.0)
    wide = replace(make_node("wide", LARGE, labels={"zone": "b"}), num_cpus=64.0)
    assert counted(make_spec(labels={"zone": "b"}), (tight, wide))[0].num_cpus == 9.0
    assert counted(make_spec(), (tight, wide))[0].num_cpus == 2.0


def test_nodes_of_orc_up_have_the_labels_that_were_given() -> None:
    cards = (Card(index=0, name="A", memory_bytes=GIB), Card(index=1, name="B", memory_bytes=GIB))
    for plan in planned_nodes(cards, 4, GIB, {"zone": "a"}):
        assert plan.labels["zone"] == "a"
        assert plan.labels["orc.card"] == plan.kind
    assert planned_nodes((), 4, GIB, {"zone": "a"})[0].labels["zone"] == "a"


@pytest.mark.parametrize("word", ["zone", "zone=", "=a", "zo ne=a", "orc.card=x", "zone=a,,"])
def test_what_is_no_label_is_refused_before_anything_starts(word: str, tmp_path: Path) -> None:
    where = (None, None, None, None)
    with pytest.raises(ConfigError) as info:
        up(home=tmp_path, emulate="RTX 4090", num_cpus=1, where=where, as_json=True, labels=[word])
    assert (info.value.code, info.value.exit_code) == ("E1086", 2)


def test_labels_of_a_launchers_type_are_those_of_its_file() -> None:
    kind = {
        "resources": {"CPU": 4},
        "max_workers": 2,
        "labels": {"orc.node-type": "host", "zone": "a"},
    }
    (made,) = types_in({"available_node_types": {"host": kind}})
    assert made.labels == {"orc.node-type": "host", "zone": "a"}
