"""CPUs of runs with `cpus: auto`: loading processes and training, as far as nodes have them."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.plan import cpus_told
from orchestrator.client.access import Client
from orchestrator.client.cpus import counted, hosts_of
from orchestrator.client.feasible import check_feasible
from orchestrator.client.machine import cpu_count
from orchestrator.client.names import fingerprint
from orchestrator.client.prepare import order_runs, submit_orders
from orchestrator.config.load import load_config
from orchestrator.errors import ConfigError, PlanError
from orchestrator.messages import NodeJoined, NodeTypesOffered, RunSubmitted
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.sql import SqlStore
from orchestrator.types import Card, DeviceKind, Node, NodeId, NodeType, RunSpec, RunState
from tests.strategies import GIB, make_spec

CONFIG = """
runs: {runs}
defaults: {{epochs: 1, batch: 4, data: none, model: fake, trainer: fake, workers: 3}}
projects:
- {{name: auto, resources: {{cpus: auto}}}}
- {{name: said, resources: {{cpus: 2.5}}}}
- {{name: cpu, device: cpu, resources: {{cpus: auto}}}}
- {{name: plain}}
"""


def box(name: str, *gib: float, cpus: float, gpu: str = "RTX 4090") -> Node:
    cards = tuple(
        Card(index=index, name=gpu, memory_bytes=int(size * GIB)) for index, size in enumerate(gib)
    )
    return Node(node_id=NodeId(name), cards=cards, num_cpus=cpus)


def run(workers: int = 3, **changes: object) -> RunSpec:
    spec = make_spec()
    spec = replace(spec, settings=replace(spec.settings, workers=workers))
    return replace(spec, **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("cpus", "workers", "counts", "loads"),
    [
        (16, 3, 4.0, 3),  # all that it wants
        (6, 3, 3.0, 2),  # a card's part of the node
        (3, 3, 1.5, 1),
        (1, 8, 0.5, 1),
        (16, 0, 1.0, 0),
        (1, 0, 0.5, 0),
    ],
)
def test_a_card_has_its_part_of_the_cpus(
    cpus: float, workers: int, counts: float, loads: int
) -> None:
    spec, told = counted(run(workers), [box("a", 24, 24, cpus=cpus)])
    assert (spec.num_cpus, spec.settings.workers) == (counts, loads)
    assert f"{counts:g} CPUs are counted" in told
    assert ("a has" in told) is (counts < workers + 1)


def test_a_share_of_a_card_has_as_much_of_its_cpus() -> None:
    spec, _ = counted(run(8, memory_bytes=6 * GIB), [box("a", 24, cpus=16)])
    assert (spec.num_cpus, spec.settings.workers) == (4.0, 3)


def test_the_node_with_the_least_for_a_card_decides_among_those_that_could_hold_it() -> None:
    roomy, scarce = box("roomy", 24, cpus=32), box("scarce", 24, 24, cpus=4)
    small = box("small", 8, cpus=1)
    other = box("other", 24, cpus=1, gpu="Tesla T4")
    spec, told = counted(run(memory_bytes=24 * GIB), [roomy, scarce, small])
    assert spec.num_cpus == 2.0
    assert "scarce has 4 CPUs for 2 cards" in told
    spec, _ = counted(run(gpu_types=("RTX 4090",)), [roomy, other])
    assert spec.num_cpus == 4.0


def test_a_run_on_the_cpu_has_a_node_for_itself_if_it_needs_it() -> None:
    spec, _ = counted(run(8, device=DeviceKind.CPU), [box("a", cpus=6)])
    assert (spec.num_cpus, spec.settings.workers) == (6.0, 5)


@pytest.mark.parametrize("cpus", [1, 2, 7, 10, 64])
@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.7, 1.0])
def test_whatever_fits_the_cards_starts(cpus: float, share: float) -> None:
    node = box("a", 24, 24, 24, cpus=cpus)
    spec, _ = counted(run(8, memory_bytes=int(24 * GIB * share)), [node])
    scheduler = Scheduler()
    scheduler.handle(NodeJoined(at=0.0, node=node))
    names = [f"r{number}" for number in range(3 * int(1 / share + 1e-6))]
    for name in names:
        named = replace(spec, run_id=name, folder=f"/runs/{name}")  # type: ignore[arg-type]  # a text
        scheduler.handle(RunSubmitted(at=0.0, spec=named))
    states = {scheduler.status(name).state for name in names}  # type: ignore[arg-type]  # a text
    assert states == {RunState.STARTING}


def test_orders_of_a_config_count_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(CONFIG.format(runs=tmp_path / "runs"))
    config = load_config(path, (), environment={"ORC_CONFIG": "none"})
    client = Client(tmp_path / "home")
    card = Card(index=0, name="RTX 4090", memory_bytes=24 * GIB)
    orders = order_runs(config, client, 1000.0, (card,))
    mine = min(4.0, cpu_count())
    assert [order.spec.num_cpus for order in orders] == [mine, 2.5, mine, 0.0]
    templates = [project.template for project in config.projects]
    for order, template in zip(orders, templates, strict=True):
        asked = replace(template, folder=order.spec.folder)
        assert fingerprint(order.spec) == fingerprint(asked), "it is the same training"
    assert [bool(order.remarks) for order in orders] == [True, False, True, False]
    ids = submit_orders(orders, config, client, ())
    again = order_runs(config, client, 1001.0, (card,))
    assert [order.continues for order in again] == list(ids)
    told = cpus_told(config, (), [box("here", 24, cpus=2)])
    assert [line.split(":")[0] for line in told] == ["auto", "cpu"]


def test_hosts_are_those_of_the_driver_and_those_that_may_come(tmp_path: Path) -> None:
    client = Client(tmp_path)
    (own,) = hosts_of(client, ())
    assert own.num_cpus == cpu_count()
    kind = NodeType(
        name="l4", max_nodes=2, price=1.0, gpu="L4", num_cards=2, memory_bytes=GIB, num_cpus=3.0
    )
    with SqlStore(str(client.path)) as store, store.drive("test"):
        store.append(NodeJoined(at=0.0, node=box("a", 24, cpus=9)))
        store.append(NodeTypesOffered(at=0.0, node_types=(kind,)))
        hosts = hosts_of(client, ())
    assert [(host.node_id, host.num_cpus, len(host.cards)) for host in hosts] == [
        ("a", 9, 1),
        ("l4", 3, 2),
    ]


def test_more_cpus_than_a_node_has_are_refused_at_once() -> None:
    asked = run(num_cpus=cpu_count() + 1.0)
    card = Card(index=0, name="RTX 4090", memory_bytes=24 * GIB)
    with pytest.raises(PlanError) as refused:
        check_feasible([asked], (card,))
    assert refused.value.code == "E2001"
    assert any("resources.cpus" in line for line in refused.value.fix)


@pytest.mark.parametrize("word", ["some", "-1", "5000", "true", "[auto]"])
def test_other_words_are_refused(tmp_path: Path, word: str) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(f"model: fake\ntrainer: fake\ndata: none\nresources: {{cpus: {word}}}\n")
    with pytest.raises(ConfigError, match="cpus"):
        load_config(path, (), environment={"ORC_CONFIG": "none"})
