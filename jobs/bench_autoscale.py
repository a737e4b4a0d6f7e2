"""From no worker to the nodes that a queue needs and back to none, on Ray's own autoscaler."""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from jobs.autoscaled_ray import autoscaled_ray, emulated_type
from jobs.stub_driver import StubParts
from orchestrator.client.access import Client
from orchestrator.cluster.ray import RayCluster
from orchestrator.cluster.scaling import ScaledCluster
from orchestrator.cluster.session import joined_ray, token_file, use_token
from orchestrator.config.load import load_shared
from orchestrator.driver import drive
from orchestrator.messages import (
    AskNodes,
    Event,
    GangFinished,
    GangStarted,
    NodeJoined,
    NodeLost,
    NodeTypesOffered,
)
from orchestrator.schedule.standard import standard_scheduler
from orchestrator.types import NodeType, RunId, RunSpec, TrainSettings

__all__ = ["BEST", "Timeline", "bench", "offer", "queue_of"]

GIB = 1 << 30
SIZES = (10, 10, 20, 20, 40, 40)  # GiB of each run
BEST = {"small": 3, "big": 1}  # by hand: 10 + 10, 20 and 20 on 24 GB each, 40 + 40 on 80 GB
LIMIT_SECONDS = 240.0


def offer() -> tuple[NodeType, ...]:
    """Nodes with 24 GB and with 80 GB, the large ones four times as dear."""
    words = "{small: {gpu: RTX 4090, max: 6, price: 1}, big: {gpu: A100 80GB, max: 3, price: 4}}"
    return load_shared([f"cluster.node_types={words}"], environment={}).node_types


def queue_of(folder: Path, *, epochs: int, epoch_seconds: float) -> list[RunSpec]:
    """Six runs of the fake trainer."""
    return [
        RunSpec(
            run_id=RunId(f"run-{number}-{gib}gib"),
            project="autoscale",
            trainer="fake",
            settings=TrainSettings(
                model="fake",
                data="none",
                imgsz=32,
                epochs=epochs,
                options={"epoch_seconds": epoch_seconds},
            ),
            effective_batch=8,
            folder=str(folder / f"run-{number}"),
            memory_bytes=gib * GIB,
        )
        for number, gib in enumerate(SIZES)
    ]


class Timeline(ScaledCluster):
    """What was asked and what came of it, with seconds since the runs were submitted."""

    begun = 0.0

    def begin(self) -> None:
        """The runs have been submitted."""
        self.begun = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.there: dict[str, str] = {}  # nodes that were brought, and their type
        self.came: Counter[str] = Counter()

    def apply(self, action: Any) -> None:
        """Note what is asked for."""
        if isinstance(action, AskNodes):
            self._say("asked", ", ".join(f"{num} x {name}" for name, num in action.counts) or "0")
        super().apply(action)

    def observe(self, event: Event) -> None:
        """Note what happened."""
        match event:
            case NodeJoined(node=node) if node.node_type:
                self.there[node.node_id] = node.node_type
                self.came[node.node_type] += 1
                self._say("came", f"{node.node_type} ({node.cards[0].name}, emulated)")
            case NodeLost(node_id=node_id) if node_id in self.there:
                self._say("went", self.there.pop(node_id))
            case GangStarted(attempt=attempt):
                self._say("started", attempt.run_id)
            case GangFinished(attempt=attempt):
                self._say("finished", attempt.run_id)
            case _:
                pass

    def is_going_on(self) -> bool:
        """True while nodes are there, or until the limit."""
        return bool(self.there) and time.monotonic() - self.begun < LIMIT_SECONDS

    def _say(self, what: str, detail: str) -> None:
        at = round(time.monotonic() - self.begun, 1)
        row = {"at": at, "what": what, "detail": str(detail), "nodes": len(self.there)}
        self.rows.append(row)
        print(f"{at:7.1f} s  {what:9}{detail:36} nodes {len(self.there)}", flush=True)


def bench(home: Path, *, epochs: int, epoch_seconds: float, idle_seconds: float) -> Timeline:
    """Bring the queue to its end, and wait until every node has been let go."""
    types = {
        "small": emulated_type("small", "RTX-4090", 24, most=6),
        "big": emulated_type("big", "A100-80GB", 80, most=3),
    }
    use_token(token_file(home))
    client = Client(home)
    with autoscaled_ray(types, idle_seconds=idle_seconds) as address, joined_ray(address):
        inner = RayCluster(StubParts(), list_cards=tuple)
        offered = NodeTypesOffered(at=0.0, node_types=offer(), spare_seconds=0.0)
        cluster = Timeline(inner, offered)
        client.submit(queue_of(home, epochs=epochs, epoch_seconds=epoch_seconds))
        cluster.begin()
        with client.store() as store, store.drive("bench"):
            drive(
                standard_scheduler(),
                cluster,
                store,
                cluster,
                observe=cluster.observe,
                keep_alive=cluster.is_going_on,
            )
        cluster.close()
    states = Counter(str(run.state) for run in client.runs())
    print(f"runs: {dict(states)}; nodes that came: {dict(cluster.came)}; by hand: {BEST}")
    return cluster


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--epoch-seconds", type=float, default=2.0)
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="the timeline as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        seen = bench(
            Path(place),
            epochs=given.epochs,
            epoch_seconds=given.epoch_seconds,
            idle_seconds=given.idle_seconds,
        )
    if given.out:
        given.out.write_text(json.dumps(seen.rows, indent=1))
    raise SystemExit(0 if dict(seen.came) == BEST and not seen.there else 1)
