"""submit, wait, rerun, queue move, events, serve: what they ask, say, and exit with."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.app import main
from orchestrator.client.access import Client
from orchestrator.console.journal import show_events
from orchestrator.console.service import stop_service
from orchestrator.errors import ConflictError
from orchestrator.messages import DrainRequested, GangStarted, NodeJoined, RunMoved, RunSubmitted
from orchestrator.store.sql import SqlStore
from orchestrator.types import Node, NodeId, RunId, RunState
from tests.cli.stored import CARDS, GIB, drive_store, make_spec, make_store

CONFIG = """\
projects:
  - {name: one, trainer: fake, model: fake, data: none, epochs: 2, resources: {memory: 2GiB}}
  - {name: two, trainer: fake, model: fake, data: none, epochs: 3, resources: {memory: 2GiB}}
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("ORC_DISK_RESERVE", "1000")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the same on machines with GPUs
    (tmp_path / "exp.yaml").write_text(CONFIG)
    return tmp_path / "home"


@contextmanager
def driver(home: Path) -> Iterator[SqlStore]:
    """Somebody drives the store, with two cards."""
    with Client(home).store() as store, store.drive("orc serve"):
        node = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)
        store.append(NodeJoined(at=1.0, node=node))
        yield store


def orc(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def orc_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    _, out, _ = orc(capsys, *words, "--json")
    value = json.loads(out)
    assert value["schema_version"] == 1
    assert isinstance(value, dict)
    return value


def test_what_is_submitted_is_in_the_store_and_its_ids_are_printed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = orc(capsys, "submit", "exp.yaml", "epochs=7")
    assert code == 0
    ids = out.split()
    assert "no driver runs now: orc serve --background starts one" in err
    with Client(home).store() as store:
        asked = [event.spec for event in store.waiting() if isinstance(event, RunSubmitted)]
    assert [spec.run_id for spec in asked] == ids
    assert [spec.settings.epochs for spec in asked] == [7, 7]
    assert all((Path(spec.folder) / "config.yaml").is_file() for spec in asked)


def test_the_driver_that_takes_it_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with driver(home):
        code, _, err = orc(capsys, "submit", "exp.yaml")
        told = orc_json(capsys, "submit", "exp.yaml")
    assert code == 0
    assert f"orc serve on {os.uname().nodename}, pid {os.getpid()}" in err
    assert [run["is_new"] for run in told["runs"]] == [False, False], "they are under way"


def test_one_key_for_one_thing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first, _ = orc(capsys, "submit", "exp.yaml", "--key", "k")
    assert orc(capsys, "submit", "exp.yaml", "--key", "k")[1] == first
    code, out, err = orc(capsys, "submit", "exp.yaml", "epochs=9", "--key", "k")
    assert (code, out) == (2, "")
    assert "error[E5009]: the key 'k/one' was already used" in err
    assert "Traceback" not in err
    code, second, _ = orc(capsys, "submit", "exp.yaml", "--key", "another")
    assert code == 0
    assert not set(second.split()) & set(first.split())
    assert len(Client(home).runs()) == 4
    drive_store(Client(home))
    assert orc(capsys, "submit", "exp.yaml", "--key", "k")[1] == first, "also after its end"


@pytest.mark.parametrize("key", ["", "  ", "x" * 201, "a\nb"])
def test_what_cannot_be_a_key(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = orc(capsys, "submit", "exp.yaml", "--key", key)
    assert code == 2
    assert "E1035" in err


@pytest.mark.parametrize(
    "words",
    [
        ["resources.memory=17GiB"],
        ["resources.gpu_type=[A100]"],
        ["resources.gpus=4", "resources.memory=auto"],
    ],
)
def test_what_the_driver_can_never_run_is_refused_at_once(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driver(home):
        code, _, err = orc(capsys, "submit", "exp.yaml", *words)
        assert code == 5
        assert "E2001" in err
        assert not Client(home).runs()


def test_many_askers_with_one_key_make_one_project(home: Path) -> None:
    """64 threads and 4 processes ask for the same; no run and no folder is there twice."""
    code = "import sys; from orchestrator.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = ["submit", "exp.yaml", "--key", "k"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    answers: list[tuple[RunId, ...]] = []

    def ask(number: int) -> None:
        ids = [RunId(f"20261121-05{number:04d}-other-fox-{name}") for name in ("one", "two")]
        specs = [
            replace(make_spec(name), run_id=run_id, folder=f"/nowhere/{run_id}")
            for name, run_id in zip(("one", "two"), ids, strict=True)
        ]
        answers.append(Client(home).submit(specs, ["thread/one", "thread/two"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [child.communicate()[0].decode().split() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len(answers) == 64
    assert len(set(answers)) == 1
    assert len({tuple(ids) for ids in told}) == 1
    assert len(Client(home).runs()) == 4
    folders = [path.parent for path in home.parent.glob("runs/*/*/config.yaml")]
    assert {path.name for path in folders if not path.is_symlink()} == set(told[0])
    links = list(home.parent.glob("runs/*/latest"))
    assert {link.resolve().name for link in links} == set(told[0]), "links to what is there"


def test_rerun_is_a_new_run_with_changes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orc(capsys, "submit", "exp.yaml")
    drive_store(Client(home))
    code, out, _ = orc(capsys, "rerun", "one", "epochs=11")
    assert code == 0
    spec = Client(home).show(out.strip()).spec
    assert (spec.project, spec.settings.epochs, spec.memory_bytes) == ("one", 11, 2 * GIB)
    code, again, _ = orc(capsys, "rerun", "one", "epochs=11")
    assert again != out, "the same once more is another run"
    (Path(spec.folder) / "config.yaml").unlink()
    code, _, err = orc(capsys, "rerun", spec.run_id)
    assert code == 3
    assert "E5021" in err


def test_wait_exits_as_the_runs_ended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled = make_store(home)
    for names, code in (
        (["good"], 0),
        (["good", "bad"], 7),
        (["bad"], 1),
        (["good", "stopped"], 9),
    ):
        assert main(["wait", *(filled.ids[name] for name in names)]) == code
    capsys.readouterr()
    assert main(["wait", "nobody"]) == 3
    with driver(home):
        assert main(["wait", filled.ids["waiting"], "--timeout", "0"]) == 124
    assert "orc wait" in capsys.readouterr().err


def test_waiting_without_a_driver_ends(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled = make_store(home)
    code, _, err = orc(capsys, "wait", filled.ids["waiting"])
    assert code == 75
    assert "orc resume" in err
    assert "orc serve" in err


def test_a_run_is_moved_where_it_was_asked_to_go(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(home)
    client.submit([make_spec(name, memory=15 * GIB, epochs=9) for name in ("a", "bb", "ccc")])
    drive_store(client, num_events=5)  # the first of them runs
    code, _, err = orc(capsys, "queue", "move", "ccc", "--top")
    assert code == 0
    assert "was asked to go first among priority 50" in err
    assert "no driver runs now" in err
    drive_store(client, num_events=6)
    order = [entry["project"] for entry in orc_json(capsys, "queue")["queue"]]
    assert order.index("ccc") < order.index("bb")
    told = orc_json(capsys, "queue", "move", "ccc", "--bottom")
    assert told["place"] == "bottom"
    orc(capsys, "queue", "move", "bb", "--before", "ccc")
    with client.store() as store:
        waiting = store.waiting()
        ids = {run.project: run.id for run in client.runs()}
    assert [(e.run_id, e.before, e.to_end) for e in waiting if isinstance(e, RunMoved)] == [
        (ids["ccc"], None, True),
        (ids["bb"], ids["ccc"], False),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["move", "good", "--top"],
        ["move", "waiting", "--before", "huge"],
        ["move", "waiting", "--before", "waiting"],
        ["move", "waiting"],
        ["move", "waiting", "--top", "--bottom"],
        ["set", "waiting", "priority=5000"],
        ["set", "waiting", "priority=5", "--top"],
    ],
)
def test_moves_that_cannot_be_are_refused(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = make_store(home)
    named = [filled.ids.get(word, word) for word in words]
    code, _, err = orc(capsys, "queue", *named)
    assert code == 2
    assert err.startswith("error[E10")


def test_queues_are_told_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [make_spec("a"), make_spec("bb"), make_spec("ccc")]
    queues = ("default", "night", "night")
    Client(home).submit([replace(s, queue=q) for s, q in zip(specs, queues, strict=True)])
    entries = orc_json(capsys, "queue")["queue"]
    assert [entry["position"] for entry in entries] == [1, 2, 3]
    assert [entry["position_in_queue"] for entry in entries] == [1, 1, 2]
    only = orc_json(capsys, "queue", "--queue", "night")["queue"]
    assert [entry["project"] for entry in only] == ["bb", "ccc"]
    _, out, _ = orc(capsys, "queue")
    assert "IN QUEUE" in out


def test_events_are_lines_or_objects(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled = make_store(home)
    code, out, _ = orc(capsys, "events")
    assert code == 0
    lines = out.splitlines()
    assert any(f"run={filled.ids['good']} finished" in line for line in lines)
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == sorted(numbers)
    _, out, _ = orc(capsys, "events", "--json", "--run", filled.ids["good"])
    objects = [json.loads(line) for line in out.splitlines()]
    assert {each["run_id"] for each in objects} == {filled.ids["good"]}
    assert objects[0]["kind"] == "RunSubmitted"
    since = str(objects[-2]["number"])
    _, out, _ = orc(capsys, "events", "--json", "--run", filled.ids["good"], "--since", since)
    assert json.loads(out) == objects[-1]


def test_following_events_goes_on_until_the_run_has_ended(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(home, clock=lambda: 1000.0)
    client.submit([spec := make_spec("one")])

    def pause(_seconds: float) -> None:
        drive_store(client)

    code = show_events(client, "one", is_following=True, as_json=False, pause=pause)
    assert code == 0
    assert f"run={spec.run_id} finished" in capsys.readouterr().out


def test_how_the_service_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = orc(capsys, "serve", "--status")
    assert code == 3
    assert "no driver runs" in err
    Client(home).submit([make_spec("one")])
    with driver(home):
        code, out, _ = orc(capsys, "serve", "--status")
        told = orc_json(capsys, "serve", "--status")
    assert code == 0
    assert "RTX 2060 (emulated)" in out
    assert told["running"]
    assert told["driver"]["pid"] == os.getpid()
    assert told["runs"] == {"PENDING": 1}
    assert not orc_json(capsys, "serve", "--status")["running"]


def test_a_driver_is_asked_to_leave_and_waited_for(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(home)
    client.submit([make_spec("one")])
    with driver(home) as store:

        def pause(_seconds: float) -> None:
            asked = [e for e in store.receive(2.0) if isinstance(e, DrainRequested)]
            assert [event.now for event in asked] == [True]
            raise KeyboardInterrupt  # as far as it goes while this process is the driver

        with pytest.raises(KeyboardInterrupt):
            stop_service(client, now=True, as_json=False, pause=pause)
    assert "asked to leave at once" in capsys.readouterr().err
    assert stop_service(client, now=False, as_json=False) == 0
    assert "1 unfinished run(s) go on with the next one" in capsys.readouterr().err
    with client.store() as store:
        assert not [event for event in store.waiting() if isinstance(event, DrainRequested)]


def test_a_service_that_does_not_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = orc(capsys, "serve", "--background", "--emulate-gpus", "RTX 2061")
    assert code == 2
    assert "the driver did not start; its log is" in err
    assert "error[E1015]" in err


def test_serve_takes_one_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert orc(capsys, "serve", "--stop", "--status")[0] == 2
    assert orc(capsys, "serve", "--now")[0] == 2


def test_a_second_driver_is_told_who_holds_the_store(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driver(home):
        for words in (["serve"], ["serve", "--background"]):
            code, _, err = orc(capsys, *words)
            assert code == 1
            assert "E5006" in err
            assert f"pid {os.getpid()}" in err


def test_resume_hands_over_to_the_service_without_cards_here(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = make_store(home)
    with driver(home):
        code, _, err = orc(capsys, "resume", filled.ids["good"])
    assert code == 2
    assert "has succeeded" in err
    assert Client(home).run(filled.ids["good"]).state is RunState.SUCCEEDED


def test_the_same_from_python(home: Path) -> None:
    ids = orchestrator.submit("exp.yaml", ["epochs=4"], key="k")
    assert orchestrator.submit("exp.yaml", ["epochs=4"], key="k") == ids
    with pytest.raises(ConflictError):
        orchestrator.submit("exp.yaml", ["epochs=5"], key="k")
    client = orchestrator.Client()
    client.move(ids[1])
    drive_store(client)
    assert client.wait(ids[0], timeout=0.0).state is RunState.SUCCEEDED
    kinds = [type(event) for _, event in client.events()]
    assert kinds.index(RunMoved) < kinds.index(GangStarted), "asked first, taken first"
    assert any(isinstance(event, RunMoved) for _, event in client.events(ids[1]))
    assert [node.node_id for node in client.nodes()] == ["box"]
