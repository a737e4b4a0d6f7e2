"""Rules of queues and cards that were put aside: what people set, see and mend by command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.client.access import Client
from orchestrator.cluster.sim import SimCluster
from orchestrator.console import live
from orchestrator.console.board import board
from orchestrator.driver import drive
from orchestrator.messages import (
    GangFailed,
    NodeJoined,
    PlaceMended,
    QueueChanged,
    RunSubmitted,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.standing import STANDING, Standing, standing
from orchestrator.store.sql import SqlStore
from orchestrator.types import AttemptId, Cause, Node, NodeId, QueueRule, RunId
from tests.cli.stored import CARDS, make_spec

BOX = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "home"


def orc(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def asked(home: Path) -> list[Any]:
    with Client(home).store() as store:
        return list(store.waiting())


@contextmanager
def driving(home: Path, *events: Any) -> Iterator[SqlStore]:
    """Somebody drives the store; what happened is recorded and put up as a driver does it."""
    scheduler = Scheduler()
    with Client(home).store() as store, store.drive("orc serve"):
        observe = live.observer(scheduler, board(scheduler, store))
        for event in events:
            store.append(event)
            scheduler.handle(event)
            store.publish(scheduler.drain_changes())
            observe(event)
        yield store


def test_a_queue_gets_a_weight_and_a_quota_and_keeps_what_is_not_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = orc(capsys, "queue", "set", "night", "weight=2", "quota=4")
    assert code == 0
    assert "queue night was asked to have weight 2 and 4 card(s) at a time at most" in err
    assert "no driver runs now" in err
    orc(capsys, "queue", "set", "night", "weight=3")
    orc(capsys, "queue", "set", "night", "gpus=none")
    rules = [event.rule for event in asked(home) if isinstance(event, QueueChanged)]
    assert rules == [
        QueueRule(name="night", weight=2.0, max_gpus=4.0),
        QueueRule(name="night", weight=3.0, max_gpus=4.0),
        QueueRule(name="night", weight=3.0),
    ]
    _, out, _ = orc(capsys, "queue", "set", "day", "quota=1.5", "--json")
    assert json.loads(out)["rule"] == {"name": "day", "weight": 1.0, "max_gpus": 1.5}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["set", "night", "quota=0"], "E1036"),
        (["set", "night", "weight=-1"], "E1036"),
        (["set", "night", "weight=nan"], "E1036"),
        (["set", "night", "quota=many"], "E1036"),
        (["set", "No Name", "quota=1"], "E1036"),
        (["set", "night", "colour=1"], "E1030"),
        (["set", "night"], "E1030"),
        (["set", "night", "weight=1", "--top"], "E1030"),
    ],
)
def test_rules_that_cannot_be(
    words: list[str], code: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, out, err = orc(capsys, "queue", *words)
    assert (exit_code, out) == (2, "")
    assert code in err
    assert "Traceback" not in err
    assert not home.exists() or not asked(home)


def test_positions_know_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = QueueRule(name="night", weight=2.0)
    events: list[Any] = [QueueChanged(at=1.0, rule=rule)]
    events += [
        RunSubmitted(at=3.0 * number, spec=replace(make_spec("x" * number), queue=queue))
        for number, queue in enumerate(("day", "day", "night", "night"), start=1)
    ]
    with driving(home, *events):
        _, out, err = orc(capsys, "queue", "--json")
        told = json.loads(out)
        _, table, err = orc(capsys, "queue")
    assert [run["project"] for run in told["queue"]] == ["x", "xxx", "xxxx", "xx"]
    assert [run["position_in_queue"] for run in told["queue"]] == [1, 1, 2, 2]
    assert {one["name"]: one["weight"] for one in told["queues"]} == {"day": 1.0, "night": 2.0}
    assert "queue night: weight 2, no quota, holds 0" in err
    assert table.splitlines()[0].split()[:4] == ["POS", "QUEUE", "IN", "QUEUE"]


def failing(number: int, project: str) -> list[Any]:
    spec = replace(make_spec("x" * number), project=project)
    attempt = AttemptId(run_id=spec.run_id, number=1)
    return [
        RunSubmitted(at=1.0, spec=spec),
        GangFailed(at=2.0, attempt=attempt, cause=Cause.DEVICE_FAULT, detail="ECC"),
    ]


def test_a_card_that_is_put_aside_is_told_with_the_reason_and_mended_by_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [failing(1, "one"), failing(2, "two")]
    events = [NodeJoined(at=0.0, node=BOX), *bad[0], *bad[1]]
    with driving(home, *events) as store:
        assert store.board(STANDING)["aside"]
        code, out, err = orc(capsys, "gpus")
        assert code == 0
        shut = [line for line in out.splitlines() if "put aside" in line]
        assert len(shut) == 1
        place = shut[0].split()[0]
        assert f"{place} was put aside after DEVICE_FAULT of" in err
        assert f"orc gpus mend {place}" in err
        told = json.loads(orc(capsys, "gpus", "--json")[1])
        assert [f"{one['node_id']}:{one['card']}" for one in told["aside"]] == [place]
        code, _, err = orc(capsys, "gpus", "mend", place)
        assert code == 0
        (wish,) = store.waiting()
        assert wish == PlaceMended(at=wish.at, node_id=NodeId("box"), card=int(place[-1]))
        orc(capsys, "gpus", "mend", "box")
        assert [event.card for event in store.waiting() if isinstance(event, PlaceMended)] == [
            int(place[-1]),
            None,
        ]


@pytest.mark.parametrize("words", [["mend"], ["mend", "box:0", "now"], ["repair", "box:0"]])
def test_words_that_gpus_does_not_know(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = orc(capsys, "gpus", *words)
    assert code == 2
    assert "E1030" in err


def test_a_place_that_is_not_there_is_not_mended(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no driver has told of any node" in orc(capsys, "gpus", "mend", "box:0")[2]
    with driving(home, NodeJoined(at=0.0, node=BOX)):
        code, _, err = orc(capsys, "gpus", "mend", "box:7")
    assert code == 2
    assert "there are box:0, box:1" in err


def test_a_driver_puts_up_what_its_scheduler_knows(home: Path) -> None:
    client = Client(home)
    client.submit([make_spec("one")])
    scheduler = Scheduler()
    cluster = SimCluster([NodeJoined(at=0.0, node=BOX)])
    with client.store() as store, store.drive("orc serve"):
        client.ask([QueueChanged(at=0.0, rule=QueueRule(name="default", weight=2.0))])
        observe = live.observer(scheduler, board(scheduler, store))
        drive(scheduler, cluster, store, cluster, observe=observe)
        told = store.board(STANDING)
    assert told["queues"][0]["name"] == "default"
    assert told["queues"][0]["weight"] == 2.0
    assert told["queues"][0]["rank"] > 0.0
    assert standing(scheduler, cluster.now()).aside == ()
    assert scheduler.status(RunId(make_spec("one").run_id)).state == "SUCCEEDED"
    with client.store() as store, store.drive("the next"):
        assert store.board(STANDING) is None, "a new driver has told nothing yet"
    assert Standing() == Standing(queues=(), aside=(), worth=1.0)
