"""Files for Ray's launcher: ours pass all checks, and our check finds what Ray lets pass."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.check_cluster import as_launched, check, ray_problems
from orchestrator.cluster.launcher import problems_in, read_launcher, types_in
from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("aws", "gcp", "onprem")


def variant(name: str) -> dict[str, Any]:
    """One of the variants of cluster.yaml, with its comment signs taken away."""
    text = (ROOT / "cluster.yaml").read_text()
    found = re.search(rf"^# --- {name}\n(.*?)^# --- end$", text, re.DOTALL | re.MULTILINE)
    assert found, f"cluster.yaml has no variant {name}"
    lines = found[1].splitlines()
    if all(line.startswith("#") for line in lines):
        lines = [line.removeprefix("# ").removeprefix("#") for line in lines]
        keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
        lines = lines[keys[0] :]  # what is written above the first key is prose
    config = yaml.safe_load("\n".join(lines))
    assert isinstance(config, dict)
    return config


def test_the_file_itself_is_its_first_variant_and_nothing_is_wrong_with_it() -> None:
    path = ROOT / "cluster.yaml"
    assert check(path) == []
    assert dict(read_launcher(path)) == variant("aws")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_passes_rays_checks_and_ours(name: str) -> None:
    config = variant(name)
    assert ray_problems(config) == []
    assert problems_in(config) == []
    assert config["setup_commands"] == [], "by default Ray installs a nightly build of itself"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in " ".join(config[key])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_are_typed_labelled_and_none_runs_without_need(name: str) -> None:
    config = variant(name)
    types = types_in(config)
    assert {each.name for each in types} == set(config["available_node_types"]) - {"head"}
    for each in types:
        node = config["available_node_types"][each.name]
        assert node["min_workers"] == 0
        card = find_card(node["labels"]["orc.card"].replace("-", " "))
        assert (each.gpu, each.memory_bytes) == (card.nvml_name, card.memory_bytes)
        assert each.labels == {**node["labels"], "orc.node-type": each.name}
        assert each.max_nodes == node["max_workers"] > 0
    assert len({each.gpu for each in types}) == len(types), "one type a kind of card"
    assert "spot" in str(config) or "preemptible" in str(config)


def test_the_example_for_kubernetes_is_read_by_rays_autoscaler_as_meant() -> None:
    path = ROOT / "configs" / "kuberay.yaml"
    assert check(path) == []
    resource = read_launcher(path)
    assert resource["apiVersion"] == "ray.io/v1"
    assert resource["spec"]["enableInTreeAutoscaling"] is True
    assert resource["spec"]["autoscalerOptions"]["version"] == "v2"
    found = {each.name: each for each in types_in(as_launched(resource))}
    assert {name: (t.num_cards, t.max_nodes, t.price) for name, t in found.items()} == {
        "l4": (1, 6, 0.7),
        "a100": (1, 2, 5.0),
    }
    groups = [resource["spec"]["headGroupSpec"], *resource["spec"]["workerGroupSpecs"]]
    for group in groups:
        container = group["template"]["spec"]["containers"][0]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
    for group in groups[1:]:
        assert group["replicas"] == group["minReplicas"] == 0
        mounts = {
            mount["name"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
        }
        assert mounts <= {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def types_of(config: dict[str, Any]) -> dict[str, Any]:
    types: dict[str, Any] = config["available_node_types"]
    return types


Change = Callable[[dict[str, Any]], Any]
BROKEN: dict[str, tuple[Change, str]] = {
    "no region": (lambda c: c["provider"].pop("region"), "provider.region is missing"),
    "no setup_commands": (lambda c: c.pop("setup_commands"), "nightly build"),
    "no auth mode": (
        lambda c: c.update(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379"]),
        "worker_start_ray_commands does not say RAY_AUTH_MODE",
    ),
    "unknown card": (
        lambda c: types_of(c)["t4-spot"]["labels"].update({"orc.card": "T5"}),
        "nearest: T4",
    ),
    "another card": (
        lambda c: types_of(c)["t4-spot"]["labels"].update({"orc.card": "L4", "orc.card-gib": "24"}),
        "label orc.card says NVIDIA L4, and the machine has T4",
    ),
    "wrong memory": (
        lambda c: types_of(c)["t4-spot"]["labels"].update({"orc.card-gib": "24"}),
        "label orc.card-gib is 24, and T4 has 16",
    ),
    "memory that is none": (
        lambda c: types_of(c)["t4-spot"]["labels"].update({"orc.card-gib": "much"}),
        "label orc.card-gib is 'much', and no number",
    ),
    "no memory": (
        lambda c: types_of(c)["t4-spot"]["labels"].pop("orc.card-gib"),
        "label orc.card-gib is missing",
    ),
    "a label mistyped": (
        lambda c: types_of(c)["t4-spot"].update(
            labels={"orc.nodetype": "t4-spot", "orc.card": "T4", "orc.card-gib": "16"}
        ),
        "label orc.node-type is missing; the nearest: orc.nodetype",
    ),
    "another type's name": (
        lambda c: types_of(c)["t4-spot"]["labels"].update({"orc.node-type": "t4"}),
        "label orc.node-type says t4, and the type is called t4-spot",
    ),
    "no GPU": (lambda c: types_of(c)["t4-spot"]["resources"].pop("GPU"), "resources say no GPU"),
    "max below min": (
        lambda c: types_of(c)["t4-spot"].update(min_workers=5),
        "min_workers is 5, above max_workers, which is 4",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_ray_lets_pass_is_found(name: str) -> None:
    change, told = BROKEN[name]
    config = copy.deepcopy(variant("aws"))
    change(config)
    found = problems_in(config)
    assert len([problem for problem in found if told in problem]) == 1, found


def test_a_mistake_that_ray_finds_is_told_too() -> None:
    config = variant("aws") | {"no_such_key": 1}
    assert "no_such_key" in ray_problems(config)[0]


def test_types_that_are_described_wrongly_are_refused() -> None:
    config = variant("aws")
    types_of(config)["t4-spot"]["labels"]["orc.card-gib"] = "24"
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        types_in(config)
    assert caught.value.code == "E1073"
    with pytest.raises(ConfigError, match="cannot be used"):
        types_in(variant("onprem"))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    with pytest.raises(ConfigError, match="no file for Ray's cluster launcher"):
        read_launcher(path)
    path.write_text("[1, 2")
    with pytest.raises(ConfigError) as caught:
        read_launcher(path)
    assert caught.value.code == "E1072"
