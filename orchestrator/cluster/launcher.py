"""Files for Ray's cluster launcher: the node types they describe, and what Ray does not notice.

Ray checks such a file against a schema only. It accepts a provider without a region, labels that
say another card than the machine has, and set-up commands by default that install a nightly Ray.
"""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster.labels import CARD, CARD_GIB, EMULATED, NODE_TYPE, PRICE, card_in
from orchestrator.device.catalogue import CardModel, find_card
from orchestrator.errors import ConfigError
from orchestrator.types import NodeType

__all__ = ["problems_in", "read_launcher", "types_in"]

_GIB = 1 << 30
_NEEDED = {  # keys of the provider without which `ray up` fails late
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "azure": ("location", "resource_group", "subscription_id"),
    "local": ("head_ip", "worker_ips"),
}
_CARDS = {  # what machines of the clouds have, by the beginning of their name
    "g4dn.": "T4", "g5.": "A10G", "g6.": "L4", "g6e.": "L40S", "p3.": "V100 SXM2 16GB",
    "p4d.": "A100 40GB", "p4de.": "A100 80GB", "p5.": "H100", "p5e.": "H200", "p5en.": "H200",
    "g2-standard-": "L4", "a2-highgpu-": "A100 40GB", "a2-ultragpu-": "A100 80GB",
    "a3-highgpu-": "H100",
}  # fmt: skip


def read_launcher(path: Path) -> Mapping[str, Any]:
    """Read a file for `ray up`, or the copy of it that it puts on the head node.

    Raises:
        ConfigError: E1072, it cannot be read.
    """
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error
    if not isinstance(found, dict) or not found:
        raise _unreadable(path, "it is no block of keys")
    return found


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} is no file for Ray's cluster launcher",
        code="E1072",
        why=(why,),
        fix=("cluster.launcher: the file that was given to `ray up`", "or cluster.node_types"),
    )


def types_in(config: Mapping[str, Any], name: str = "the launcher's file") -> tuple[NodeType, ...]:
    """The worker types of a launcher's file that may be asked for: those with a label for it.

    Raises:
        ConfigError: E1073, there are none, or one of them is described wrongly.
    """
    kinds = [(key, kind) for key, kind in _workers(config) if NODE_TYPE in _labels(kind)]
    wrong = [problem for key, kind in kinds for problem in _type_problems(key, kind)]
    if wrong or not kinds:
        raise ConfigError(
            f"node types of {name} cannot be used",
            code="E1073",
            why=tuple(wrong) or (f"no type of workers has the label {NODE_TYPE}",),
            fix=("correct it there and run `ray up` again", "python -m jobs.check_cluster FILE"),
        )
    return tuple(_type(key, kind) for key, kind in kinds)


def problems_in(config: Mapping[str, Any]) -> list[str]:
    """What Ray accepts in a launcher's file although it does not work, or not as meant."""
    provider = config.get("provider") or {}
    found = [
        f"provider.{key} is missing: `ray up` would fail, or take one that was not chosen"
        for key in _NEEDED.get(str(provider.get("type")), ())
        if not provider.get(key)
    ]
    if provider.get("type") in ("aws", "gcp", "azure") and config.get("setup_commands") is None:
        found.append("setup_commands is missing: by default Ray installs a nightly build of itself")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        lines = [str(line) for line in config.get(key) or ()]
        starts = [line for line in lines if "ray start" in line]
        if starts and not any("RAY_AUTH_MODE" in line for line in lines):
            found.append(f"{key} does not say RAY_AUTH_MODE: whether tokens are asked is left open")
    for name, kind in _workers(config):
        found += _type_problems(name, kind)
    return found


def _workers(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, kind in (config.get("available_node_types") or {}).items():
        if name != config.get("head_node_type") and kind.get("max_workers", 1):
            yield str(name), kind


def _labels(kind: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (kind.get("labels") or {}).items()}


def _type_problems(name: str, kind: Mapping[str, Any]) -> Iterator[str]:
    labels, where = _labels(kind), f"node type {name}"
    most, least = kind.get("max_workers", 0), kind.get("min_workers", 0)
    if least > most:
        yield f"{where}: min_workers is {least}, above max_workers, which is {most}"
    if not (kind.get("resources") or {}).get("GPU"):
        if CARD in labels or CARD_GIB in labels:
            yield f"{where}: label {CARD} is there, and resources say no GPU"
        return
    for key in (NODE_TYPE, CARD, CARD_GIB):
        if key not in labels:
            near = difflib.get_close_matches(key, labels, n=1, cutoff=0.6)
            yield f"{where}: label {key} is missing" + (f"; the nearest: {near[0]}" if near else "")
    if labels.get(NODE_TYPE, name) != name:
        yield f"{where}: label {NODE_TYPE} says {labels[NODE_TYPE]}, and the type is called {name}"
    if CARD in labels:
        yield from _card_problems(where, labels, kind)


def _card_problems(where: str, labels: Mapping[str, str], kind: Mapping[str, Any]) -> Iterator[str]:
    try:
        name, _, card = card_in(labels)
    except ConfigError as error:
        yield f"{where}: label {CARD}: {'; '.join((error.what, *error.why))}"
        return
    if card is None:
        yield f"{where}: label {CARD}: {_unknown(labels)}"
    real = _machine_card(kind.get("node_config") or {})
    if real is not None and (card is None or real.nvml_name != card.nvml_name):
        yield f"{where}: label {CARD} says {name}, and the machine has {real.name}"


def _unknown(labels: Mapping[str, str]) -> str:
    """Why the catalogue does not know a card, with the nearest names."""
    try:
        return find_card(labels[CARD].replace("-", " ")).name
    except ConfigError as error:
        return "; ".join((error.what, *error.why))


def _machine_card(node: Mapping[str, Any]) -> CardModel | None:
    machine = str(node.get("InstanceType") or node.get("machineType") or "").rpartition("/")[2]
    for start, name in _CARDS.items():
        if machine.startswith(start):
            return find_card(name)
    for card in node.get("guestAccelerators") or ():
        name = str(card.get("acceleratorType", "")).rpartition("/")[2].removeprefix("nvidia-")
        with suppress(ConfigError):
            return find_card(name.removeprefix("tesla-"))
    return None


def _type(name: str, kind: Mapping[str, Any]) -> NodeType:
    labels, resources = _labels(kind), kind.get("resources") or {}
    num = int(resources.get("GPU", 0))
    gpu, memory, _ = card_in(labels) if num else ("", 0, None)
    worth = num * memory / _GIB if num else float(resources.get("CPU", 1)) / 16
    return NodeType(
        name=name,
        max_nodes=int(kind.get("max_workers", 0)),
        price=float(labels[PRICE]) if PRICE in labels else worth,
        gpu=gpu,
        num_cards=num,
        memory_bytes=memory,
        num_cpus=float(resources.get("CPU", 1)),
        host_bytes=int(resources.get("memory", 0)),
        labels={**labels, NODE_TYPE: name},
        is_emulated=labels.get(EMULATED) == "true",
    )
