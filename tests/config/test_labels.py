"""Labels in a config: what a run asks of its nodes, and what this machine's node is called."""

from pathlib import Path

import pytest

from orchestrator.config.load import Config, load_config
from orchestrator.config.yaml import write_yaml
from orchestrator.errors import ConfigError

HEAD = "model: fake\ntrainer: fake\ndata: none\nname: cells\n"


def load(folder: Path, text: str, *words: str) -> Config:
    path = folder / "exp.yaml"
    path.write_text(text)
    return load_config(path, words, environment={"ORC_CONFIG": "none.yaml"})


def test_conditions_are_those_of_ray_in_one_form(tmp_path: Path) -> None:
    labels = (
        '{zone: a, disk: "!slow", rack: 7, "ray.io/accelerator-type": "in(H100, A100)",'
        ' os: "!in( x,x )"}'
    )
    config = load(tmp_path, f"{HEAD}resources: {{labels: {labels}}}\n")
    spec = config.projects[0].template
    assert spec.labels == {
        "disk": "!slow",
        "os": "!x",
        "rack": "7",
        "ray.io/accelerator-type": "in(A100,H100)",
        "zone": "a",
    }
    again = load(tmp_path, write_yaml(config.projects[0].resolved))
    assert again.projects[0].template == spec
    assert again.projects[0].fingerprint == config.projects[0].fingerprint


def test_labels_of_a_project_join_those_of_the_defaults(tmp_path: Path) -> None:
    text = (
        "defaults: {resources: {labels: {zone: a, disk: ssd}}}\n"
        "projects:\n  - {name: one, model: fake, trainer: fake, data: none,"
        " resources: {labels: {disk: null, rack: r1}}}\n"
        "  - {name: two, model: fake, trainer: fake, data: none}\n"
    )
    one, two = load(tmp_path, text).projects
    assert one.template.labels == {"rack": "r1", "zone": "a"}
    assert two.template.labels == {"disk": "ssd", "zone": "a"}
    one, two = load(tmp_path, text, "resources.labels.zone=b", "two.resources.labels={}").projects
    assert one.template.labels == {"rack": "r1", "zone": "b"}
    assert load(tmp_path, HEAD).projects[0].template.labels == {}


def test_this_machine_has_the_labels_that_the_config_gives_it(tmp_path: Path) -> None:
    config = load(tmp_path, HEAD + "cluster: {labels: {zone: a, rack: 7}}\n")
    assert config.labels == {"rack": "7", "zone": "a"}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("{zone: [a, b]}", "in(a,b)"),
        ("{zone: true}", "in(a,b)"),
        ('{zone: ""}', "VALUE"),
        ('{zone: "in(a"}', "in(A,B)"),
        ('{zone: "a b"}', "!VALUE"),
        ('{"a zone": b}', "is no label"),
        ("zone", "block of keys"),
        ("[zone]", "block of keys"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place(
    labels: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as info:
        load(tmp_path, f"{HEAD}resources: {{labels: {labels}}}\n")
    assert info.value.code == "E1011"
    assert "resources.labels" in info.value.what
    assert told in info.value.what


@pytest.mark.parametrize("labels", ["{zone: '!a'}", "{zone: ''}", "{'a b': c}", "{zone: null}"])
def test_what_is_no_label_of_a_node_is_refused(labels: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.labels") as info:
        load(tmp_path, f"{HEAD}cluster: {{labels: {labels}}}\n")
    assert info.value.code == "E1011"


@pytest.mark.parametrize("key", ["labels", "label_selector"])
def test_labels_beside_the_block_are_led_into_it(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as info:
        load(tmp_path, f"model: timm/resnet18\ndata: made:x\n{key}: {{zone: a}}\n")
    assert "resources.labels" in " ".join(info.value.fix)
