"""RAM of runs that keep their pictures there: predicted from the data, and said."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.client.access import Client
from orchestrator.client.feasible import check_feasible
from orchestrator.client.machine import ram_bytes
from orchestrator.client.names import fingerprint
from orchestrator.client.prepare import order_runs, submit_orders
from orchestrator.client.ram import (
    TRAINING_BYTES,
    WORKER_BYTES,
    Host,
    cached_bytes,
    host_of,
    with_ram,
)
from orchestrator.client.series import Order
from orchestrator.config.load import load_config
from orchestrator.errors import PlanError
from orchestrator.memory.facts import facts_of
from orchestrator.plan.job import Facts
from orchestrator.types import Card, RunSpec
from tests.strategies import GIB, make_spec
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

HOST = Host(num_cpus=4, ram_bytes=16 * GIB)
CARDS = (Card(index=0, name="RTX 2060", memory_bytes=6 * GIB),)
CONFIG = """
runs: {runs}
defaults: {{epochs: 1, batch: 4, memory: {{predict: false}}}}
projects:
- {{name: cached, model: timm/resnet10t, data: {data}, cache: ram}}
- {{name: said, model: timm/resnet10t, data: {data}, cache: ram, resources: {{ram: 3GiB}}}}
- {{name: plain, model: timm/resnet10t, data: {data}}}
"""


def spec_of(trainer: str, model: str, data: Path, imgsz: int = 64) -> RunSpec:
    spec = make_spec()
    settings = replace(spec.settings, model=model, data=str(data), imgsz=imgsz, cache="ram")
    return replace(spec, trainer=trainer, settings=settings)


def no_facts() -> Facts:
    raise AssertionError("nothing has to be read")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "set" / "train", classes=3, each=6, size=40)
    make_pictures(tmp_path / "set" / "val", classes=3, each=3, size=50)
    return tmp_path / "set"


def order_of(project: object, spec: RunSpec) -> Order:
    return Order(spec=spec, project=project, key="k")  # type: ignore[arg-type]  # not looked at


def test_a_classifier_keeps_its_pictures_as_they_are(classes: Path) -> None:
    spec = spec_of("timm", "timm/resnet10t", classes)
    assert cached_bytes(spec, no_facts) == (18 * 40 * 40 + 9 * 50 * 50) * 3


def test_a_detector_keeps_its_pictures_in_the_size_it_trains_on(tmp_path: Path) -> None:
    spec = spec_of("yolo", "yolo11n.yaml", make_yolo_data(tmp_path / "set", train=6, val=3))
    assert cached_bytes(spec, lambda: facts_of(spec)) == (6 + 3) * 64 * 64 * 3


def test_a_yolo_classifier_keeps_none() -> None:
    spec = spec_of("yolo", "yolo11n-cls.yaml", Path("set"))
    assert cached_bytes(spec, lambda: Facts(num_classes=3, num_images=9)) == 0


def of_pictures(num_bytes: int) -> Facts:
    return Facts(num_classes=2, task="detect", num_images=num_bytes // (64 * 64 * 3))


@pytest.mark.parametrize(("workers", "counted"), [(0, 0), (2, 2), (8, 4)])
def test_pictures_the_training_and_its_loading_processes_are_counted(
    workers: int, counted: int
) -> None:
    spec = spec_of("yolo", "yolo11n.yaml", Path("set"))
    spec = replace(spec, settings=replace(spec.settings, workers=workers))
    size = 4096 * 64 * 64 * 3
    order = with_ram(order_of(None, spec), HOST, lambda: of_pictures(size))
    assert order.spec.host_bytes == size + TRAINING_BYTES + counted * WORKER_BYTES
    assert "GiB are counted" in order.remarks[0]
    assert fingerprint(order.spec) == fingerprint(spec), "it is the same training"


def test_what_no_node_could_keep_is_said_and_not_counted() -> None:
    spec = spec_of("yolo", "yolo11n.yaml", Path("set"))
    order = with_ram(order_of(None, spec), HOST, lambda: of_pictures(9 * GIB))
    assert order.spec == spec
    assert "more than half of the 16.0 GiB of a node" in order.remarks[0]
    unknown = Host(num_cpus=4, ram_bytes=0)
    order = with_ram(order_of(None, spec), unknown, lambda: of_pictures(9 * GIB))
    assert order.spec.host_bytes > 9 * GIB - 64 * 64 * 3


def test_a_run_never_counts_more_than_a_node_has() -> None:
    spec = spec_of("yolo", "yolo11n.yaml", Path("set"))
    small = Host(num_cpus=2, ram_bytes=2 * GIB)
    order = with_ram(order_of(None, spec), small, lambda: of_pictures(GIB // 2))
    assert order.spec.host_bytes == 2 * GIB


def test_orders_of_a_config_count_what_they_keep(classes: Path, tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(CONFIG.format(runs=tmp_path / "runs", data=classes))
    config = load_config(path, (), environment={"ORC_CONFIG": "none"})
    client = Client(tmp_path / "home")
    orders = order_runs(config, client, 1000.0)
    cached, said, plain = (order.spec.host_bytes for order in orders)
    assert cached > TRAINING_BYTES
    assert (said, plain) == (3 * GIB, 0)
    ids = submit_orders(orders, config, client, ())
    again = order_runs(config, client, 1001.0)
    assert [order.continues for order in again] == list(ids)


def test_this_machine_is_the_host_while_no_driver_runs(tmp_path: Path) -> None:
    host = host_of(Client(tmp_path))
    assert host.num_cpus >= 1
    assert 0 < host.ram_bytes < psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "gib"), [("4294967296\n", 3.75), ("max\n", None), ("1", 0.25)])
def test_a_container_has_what_its_limit_says(tmp_path: Path, limit: str, gib: float | None) -> None:
    (tmp_path / "limit").write_text(limit)
    found = ram_bytes((tmp_path / "missing", tmp_path / "limit"))
    assert found == (ram_bytes(()) if gib is None else int(gib * GIB))


def test_more_ram_than_the_machine_has_is_refused_before_anything_starts() -> None:
    check_feasible([make_spec("r", gib=1, ram_gib=0.25)], CARDS)
    with pytest.raises(PlanError) as caught:
        check_feasible([make_spec("r", gib=1, ram_gib=10_000)], CARDS)
    assert caught.value.code == "E2001"
    assert any("RAM of one node" in line for line in caught.value.why)
    assert any("resources.ram" in line for line in caught.value.fix)
