"""Twelve projects on three Ray nodes, one of which is killed and one added while they train."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jobs.cluster_nodes import Nodes, cards_of_node, nodes_of
from jobs.parts import LocalParts
from jobs.yolo_link import DATA
from orchestrator.messages import (
    Event,
    GangFailed,
    GangStarted,
    NodeJoined,
    NodeLost,
    ProgressReported,
    RunSubmitted,
)
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunSpec, Seconds, TrainSettings

__all__ = ["Told", "drill_nodes"]

_TWIN = "RTX 4080 SUPER"  # one on each of two nodes: a gang of both is spread
_GANG = RunId("20260101-000000-yolo-pair-0000")
_SMALL = {"batch": 8, "imgsz": 64, "epochs": 4}


@dataclass(slots=True)
class Told:
    """What the drill saw."""

    seconds: Seconds = 0.0
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    restart_seconds: Seconds | None = None  # from the loss of a rank to the whole gang's start
    left_over: int = 0  # processes 15 s after the end


class _Hand:
    """Adds a node when the spread gang has an epoch, and kills one of the gang's when it came."""

    def __init__(self, nodes: Nodes, victim: Any) -> None:
        self._nodes, self._victim = nodes, victim
        self._added = False
        self.pids: set[int] = set()
        self.lost_at: Seconds | None = None
        self.told = Told()

    def see(self, event: Event) -> None:
        if isinstance(event, GangStarted):
            self.pids |= set(event.pids)
            self.told.attempts[str(event.attempt.run_id)] += 1
        mine = getattr(event, "attempt", None)
        is_gang = mine is not None and mine.run_id == _GANG
        if is_gang and isinstance(event, ProgressReported) and not self._added:
            self._added = True
            self._nodes.add(_TWIN)
        elif isinstance(event, NodeJoined) and self._added and self._victim is not None:
            self._nodes.kill(self._victim)
            self._victim = None
        elif isinstance(event, GangFailed):
            self.told.causes.append(f"{event.attempt}: {event.cause}")
        is_loss = isinstance(event, NodeLost) or (is_gang and isinstance(event, GangFailed))
        if is_loss and self.lost_at is None:
            self.lost_at = event.at
        if is_gang and isinstance(event, GangStarted) and self.lost_at is not None:
            self.told.restart_seconds = self.told.restart_seconds or event.at - self.lost_at


def drill_nodes(home: Path) -> Told:
    """Run the drill in a folder, and say what was seen."""
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.cluster.session import joined_ray
    from orchestrator.driver import drive
    from orchestrator.schedule.standard import standard_scheduler

    specs = _specs(home)
    with nodes_of(home) as nodes, SqlStore(str(home / "orchestrator.db")) as store:
        for cards in ("2x RTX 2060 6GB", f"{_TWIN}, RTX 3090"):
            nodes.add(cards)
        hand = _Hand(nodes, nodes.add(_TWIN))
        begin = time.monotonic()
        with store.drive("bench"), joined_ray(nodes.ray.address):
            for spec in specs:
                store.ask(RunSubmitted(at=time.time(), spec=spec))
            cluster = RayCluster(LocalParts(), list_cards=cards_of_node)
            try:
                drive(standard_scheduler(), cluster, store, cluster, observe=hand.see)
            finally:
                cluster.close()
        hand.told.seconds = time.monotonic() - begin
        _judge(store, specs, hand.told)
        left = [psutil.Process(pid) for pid in hand.pids if psutil.pid_exists(pid)]
        hand.told.left_over = len(psutil.wait_procs(left, timeout=15.0)[1])
    return hand.told


def _judge(store: SqlStore, specs: list[RunSpec], told: Told) -> None:
    for spec in specs:
        status = store.status(spec.run_id)
        told.states[status.state] += 1
        epochs = [progress.epoch for progress in store.progress(spec.run_id)]
        if epochs != list(range(1, spec.settings.epochs + 1)):
            told.wrong.append(f"{spec.project}: {status.state}, epochs {epochs}: {status.detail}")


def _specs(home: Path) -> list[RunSpec]:
    yolo = {"model": str(DATA / "weights" / "yolov8n.pt"), "trainer": "yolo", **_SMALL}
    yolo["data"] = str(DATA / "det_bccd_tiny" / "data.yaml")
    timm = {"model": "timm/test_resnet", "trainer": "timm", **_SMALL}
    timm["data"] = str(DATA / "cls_trashnet6")
    pair = {"num_gpus": 2, "gpu_types": (_TWIN,), "priority": 80, "epochs": 6}
    made = [
        _spec(home, "yolo-pair", **{**yolo, **pair}),
        _spec(home, "yolo", **yolo),
        _spec(home, "timm", **timm),
        *(_spec(home, f"stub-pair-{n}", num_gpus=2) for n in range(2)),
        *(_spec(home, f"stub-{n}") for n in range(7)),
    ]
    assert made[0].run_id == _GANG
    return made


def _spec(home: Path, name: str, **given: Any) -> RunSpec:
    settings = TrainSettings(
        model=given.pop("model", "stub"),
        data=given.pop("data", "none"),
        imgsz=given.pop("imgsz", 32),
        epochs=given.pop("epochs", 10),
        workers=0,
        options={"epoch_seconds": 0.5} if "trainer" not in given else {},
    )
    run_id = RunId(f"20260101-000000-{name}-0000")
    return RunSpec(
        run_id=run_id,
        project=name,
        trainer=given.pop("trainer", "fake"),
        settings=settings,
        effective_batch=given.pop("batch", 8),
        folder=str(home / "runs" / run_id),
        **given,
    )
