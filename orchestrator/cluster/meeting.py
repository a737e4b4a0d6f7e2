"""How the ranks of a gang find one another: who is where, what each sees, what they must share."""

import os
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from orchestrator.types import Card, CheckpointRef, NodeId, RunSpec, Seconds

__all__ = [
    "Meeting",
    "Place",
    "Started",
    "listening",
    "meetings",
    "paths_of",
    "place_here",
    "reach_others_by",
    "unlike",
    "unseen",
]

# What has to be the same on all nodes of a gang: ranks that compute differently train nonsense, and
# torch's own ranks of different versions do not understand one another.
_WHEELS = ("torch", "torchvision", "ultralytics", "timm", "numpy", "orchestrator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a rank says of the machine it is on."""

    host: str
    address: str  # by which other nodes reach it
    port: int  # at which rank 0 listens; 0 for the others
    versions: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]  # paths that the driver sees and this machine does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a worker says when it is up: its process, and the accelerators that Ray gave it."""

    pid: int
    accelerators: tuple[str, ...]
    place: Place
    resume_from: CheckpointRef | None = None  # the newest that rank 0 of several could verify
    folder: str = ""  # the attempt's, where it is not that of the order

    def is_elsewhere(self, card: Card | None) -> str:
        """Why the worker is not where the ledger put it; empty when it is."""
        if card is None or card.is_emulated:
            return ""
        if len(self.accelerators) == 1 and self.accelerators[0] in (str(card.index), card.uuid):
            return ""
        return f"Ray gave the worker accelerators {self.accelerators} instead of card {card.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the ranks of a gang meet, and who one of them is.

    Ranks of one machine see all of the gang's cards there, in the order of their local ranks:
    NCCL and ultralytics take the local rank for the index of the card.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    visible: tuple[str, ...]  # accelerators of the gang on this machine, as Ray names them
    timeout: Seconds
    resume_from: CheckpointRef | None = None  # the same for all, or they would train nonsense

    def environment(self) -> dict[str, str]:
        """The variables that torch's launcher would set, to be set before torch is imported."""
        variables = {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }
        if os.environ.get("CUDA_VISIBLE_DEVICES"):  # empty where cards are emulated
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.visible)
        return variables


def meetings(started: Sequence[Started], timeout: Seconds) -> tuple[Meeting, ...]:
    """What each rank has to know, from what all of them said, in rank order."""
    places = [one.place for one in started]
    sizes = Counter(place.host for place in places)
    seen: Counter[str] = Counter()
    found = []
    for rank, place in enumerate(places):
        found.append(
            Meeting(
                rank=rank,
                world_size=len(places),
                local_rank=seen[place.host],
                local_world_size=sizes[place.host],
                address=places[0].address,
                port=places[0].port,
                visible=tuple(
                    name
                    for one in started
                    if one.place.host == place.host
                    for name in one.accelerators
                ),
                timeout=timeout,
                resume_from=started[0].resume_from,
            )
        )
        seen[place.host] += 1
    return tuple(found)


def place_here(address: str, port: int, paths: Sequence[str]) -> Place:
    """What a rank tells of its machine. Imports none of what it names.

    Args:
        address: By which other nodes reach this one.
        port: At which this process listens; 0 when it does not.
        paths: What the driver sees.
    """
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _WHEELS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return Place(
        host=socket.gethostname(),
        address=address,
        port=port,
        versions=tuple(versions.items()),
        missing=tuple(path for path in paths if not Path(path).exists()),
    )


def listening() -> socket.socket:
    """A socket for ranks to meet at, on a port that was free."""
    made = socket.socket()
    made.bind(("", 0))
    return made


def reach_others_by(address: str) -> None:
    """Let gloo and NCCL talk over the interface that has the address by which Ray reaches us.

    By itself gloo takes the one that the host's name stands for, which on many systems is that
    of the host alone. What a person has set stays.
    """
    for interface, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def paths_of(spec: RunSpec, folder: Path) -> tuple[str, ...]:
    """What a worker has to find on its machine, as far as this one has it: folder, data, weights.

    Args:
        spec: The run.
        folder: The attempt's own folder.
    """
    own = () if spec.storage else (str(folder),)
    wanted = (*own, spec.settings.data, spec.settings.model)
    return tuple(path for path in wanted if Path(path).is_absolute() and Path(path).exists())


def unseen(places: Sequence[Place], nodes: Sequence[NodeId]) -> str:
    """Which paths are missing on which node; empty when none is."""
    told = {
        f"{node} does not have {path}"
        for place, node in zip(places, nodes, strict=True)
        for path in place.missing
    }
    return "; ".join(sorted(told))


def unlike(places: Sequence[Place], nodes: Sequence[NodeId]) -> str:
    """What the machines of a gang have in different versions; empty when they are alike."""
    told = []
    for what in dict(places[0].versions):
        found = {
            node: dict(place.versions)[what] for node, place in zip(nodes, places, strict=True)
        }
        if len(set(found.values())) > 1:
            each = ", ".join(f"{version} on {node}" for node, version in found.items())
            told.append(f"{what} is {each}")
    return "; ".join(told)
