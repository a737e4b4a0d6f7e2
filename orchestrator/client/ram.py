"""The RAM that runs with `cache: ram` are counted with: their pictures, and the processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.client.machine import cpu_count, ram_bytes
from orchestrator.client.names import fingerprint
from orchestrator.client.series import Order, bare
from orchestrator.plan.job import Facts
from orchestrator.types import Bytes, RunSpec

__all__ = ["Host", "cached_bytes", "host_of", "is_predicted", "with_ram"]

GIB = 1024**3
# Bytes that no other process shares (USS), torch 2.15, ultralytics 8.4 and timm 1.0 on Linux: a
# loading process holds 25 MiB (timm) to 175 MiB (YOLO at 640 px) while it is forked, the training
# itself 0.4 GiB. The driver's part of a card's context is assumed to be below 1.5 GiB.
WORKER_BYTES: Bytes = 256 * 1024**2
TRAINING_BYTES: Bytes = 2 * GIB
KEPT_SHARE = 0.5  # both trainers keep pictures only where they take at most so much of what is free
_MOST_HEADERS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The largest node: its CPUs and its RAM."""

    num_cpus: float
    ram_bytes: Bytes  # 0 is not known


def host_of(client: Client) -> Host:
    """The largest node of the driver that runs, or this machine."""
    nodes = client.nodes() if client.driver() is not None else ()
    if not nodes:
        return Host(num_cpus=cpu_count(), ram_bytes=ram_bytes())
    is_told = all(node.host_bytes for node in nodes)
    return Host(
        num_cpus=max(node.num_cpus for node in nodes),
        ram_bytes=max(node.host_bytes for node in nodes) if is_told else 0,
    )


def is_predicted(order: Order) -> bool:
    """True when the RAM of a new run is to be found out: `cache: ram`, and no size by hand."""
    spec = order.spec
    is_cached = spec.settings.cache == "ram" and spec.trainer != "fake"
    return order.continues is None and is_cached and not spec.host_bytes


def with_ram(order: Order, host: Host, facts: Callable[[], Facts]) -> Order:
    """The order with the RAM that its run is counted with, if it keeps its pictures there.

    Where no node has RAM for them the trainer reads from disk instead: that is said, and nothing
    is counted. A size given by hand stays as it is.

    Args:
        order: What is asked for.
        host: What a node has.
        facts: Reads the data set, if that is needed.

    Raises:
        DataError: The data set is not what the trainer needs.
    """
    if not is_predicted(order):
        return order
    spec = order.spec
    pictures = cached_bytes(spec, facts)
    if not pictures:
        return order
    told = f"cache=ram takes {pictures / GIB:.2f} GiB of RAM for pictures"
    if host.ram_bytes and pictures > host.ram_bytes * KEPT_SHARE:
        has = f"{host.ram_bytes / GIB:.1f} GiB"
        remark = f"{told}, more than half of the {has} of a node: it will read from disk"
        return replace(order, remarks=(*order.remarks, remark))
    workers = min(spec.settings.workers, max(1, int(host.num_cpus)))
    need = pictures + TRAINING_BYTES + workers * WORKER_BYTES
    if host.ram_bytes:
        need = min(need, host.ram_bytes)
    asked = fingerprint(bare(spec))
    return replace(
        order,
        spec=replace(spec, host_bytes=need, asked=asked),
        remarks=(*order.remarks, f"{told}; with its processes {need / GIB:.2f} GiB are counted"),
    )


def cached_bytes(spec: RunSpec, facts: Callable[[], Facts]) -> Bytes:
    """Bytes of the pictures that a run keeps decoded; 0 where its trainer keeps none.

    YOLO keeps them resized, the longer side `imgsz`, so at most imgsz x imgsz x 3 each. A timm
    run keeps them as they are: some hundred headers stand for all.

    Raises:
        DataError: The data set is not what the trainer needs.
    """
    settings = spec.settings
    if spec.trainer == "timm":
        from orchestrator.trainer.pictures import decoded_bytes, find_pictures

        total = 0
        for pictures in find_pictures(Path(settings.data).expanduser(), settings.seed):
            part = pictures.part(min(1.0, _MOST_HEADERS / max(1, len(pictures))))
            total += decoded_bytes(part, 4) * len(pictures) // max(1, len(part))
        return total
    known = facts()
    if known.task == "classify":
        return 0  # ultralytics does not keep pictures of classes in RAM
    return (known.num_images + known.num_validation_images) * settings.imgsz**2 * 3
