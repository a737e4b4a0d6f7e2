"""Runs handed over to a driver that runs already: followed to their end, left alone by Ctrl-C."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.client.access import Client
from orchestrator.cluster.sim import SimCluster
from orchestrator.console.follow import DRIVER_LOST, End, follow_runs, hand_over
from orchestrator.console.lines import LinesView
from orchestrator.driver import drive
from orchestrator.messages import CancelRequested, Event, NodeJoined
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Node, NodeId, RunId, RunSpec, RunState, Seconds
from tests.cli.stored import CARDS, Stop, make_spec


class Driver:
    """Holds the store like another process would; drives it while the follower pauses."""

    def __init__(self, client: Client) -> None:
        self._stack = ExitStack()
        store = self._stack.enter_context(client.store())
        self._store = self._stack.enter_context(store.drive("another"))
        self._left, self._has_died = 0, False
        node = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)
        self._cluster = SimCluster([NodeJoined(at=0.0, node=node)])

    def finish(self, _seconds: Seconds) -> None:
        """Train everything to its end, and stay."""
        self._cluster.restart()
        drive(Scheduler(), self._cluster, self._store, self._cluster)

    def die(self, _seconds: Seconds) -> None:
        """Train a little, and end; a driver that has ended stays so."""
        if self._has_died:
            return
        self._has_died, self._left = True, 6
        with pytest.raises(Stop):
            drive(Scheduler(), self._cluster, self._store, self._cluster, observe=self._count)
        self.close()

    def close(self) -> None:
        self._stack.close()

    def _count(self, _event: Event) -> None:
        self._left -= 1
        if not self._left:
            raise Stop


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path, clock=lambda: 1000.0)


@pytest.fixture
def driver(client: Client) -> Iterator[Driver]:
    driver = Driver(client)
    yield driver
    driver.close()


def submit(client: Client, *specs: RunSpec) -> Callable[[], tuple[RunId, ...]]:
    return lambda: client.submit(specs)


def told(client: Client, ids: tuple[RunId, ...], pause: Callable[[Seconds], None]) -> str:
    stream = io.StringIO()
    with client.store() as store, LinesView(stream) as view:
        assert follow_runs(store, ids, view, pause=pause) is End.ENDED
    return stream.getvalue()


def test_every_epoch_of_the_own_runs_is_told_and_nobody_elses(
    client: Client, driver: Driver
) -> None:
    mine, other = make_spec("mine", epochs=2), make_spec("other")
    client.submit([mine, other])
    text = told(client, (mine.run_id,), driver.finish)
    wanted = ("submitted", "attempt 1 started", "epoch 1/2", "epoch 2/2", "finished")
    places = [text.index(f"run={mine.run_id} {words}") for words in wanted]
    assert places == sorted(places)
    assert other.run_id not in text


def test_a_run_that_goes_on_again_is_followed_to_its_new_end(
    client: Client, driver: Driver
) -> None:
    spec = make_spec("again", fail_at_epoch=2, fault_attempts=2)
    client.submit([spec])
    driver.finish(0.0)
    assert client.run("again").state is RunState.FAILED
    ids = client.resume("again")
    text = told(client, ids, driver.finish)
    assert "asked to go on" in text
    assert "epoch 3/3" in text
    assert "epoch 1/3" not in text, "what was before is old"
    assert client.run("again").state is RunState.SUCCEEDED


@pytest.mark.parametrize(("fails_at", "code"), [((0, 0), 0), ((0, 2), 7), ((1,), 1)])
def test_the_exit_code_is_that_of_the_runs(
    fails_at: tuple[int, ...],
    code: int,
    client: Client,
    driver: Driver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    specs = [make_spec("a" * (n + 1), fail_at_epoch=epoch) for n, epoch in enumerate(fails_at)]
    got = hand_over(client, submit(client, *specs), "it", as_json=True, pause=driver.finish)
    assert got == code
    out, err = capsys.readouterr()
    assert [run["id"] for run in json.loads(out)["runs"]] == [spec.run_id for spec in specs]
    assert "queued with the driver that runs already (it)" in err
    assert f"run={specs[0].run_id} attempt 1 started" in err


def test_ctrl_c_leaves_the_runs_running_and_says_so(
    client: Client, driver: Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_seconds: Seconds) -> None:
        raise KeyboardInterrupt

    spec = make_spec("cells")
    assert hand_over(client, submit(client, spec), "it", as_json=False, pause=interrupt) == 130
    err = capsys.readouterr().err
    assert "the runs go on with the driver (it)" in err
    assert f"orc stop {spec.run_id}" in err
    with client.store() as store:
        assert not [event for event in store.waiting() if isinstance(event, CancelRequested)]
    driver.finish(0.0)
    assert client.run("cells").state is RunState.SUCCEEDED


def test_a_driver_that_dies_is_told_with_how_to_go_on(
    client: Client, driver: Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec("cells", epochs=50)
    code = hand_over(client, submit(client, spec), "it", as_json=False, pause=driver.die)
    assert code == DRIVER_LOST == 75
    err = capsys.readouterr().err
    assert "the driver has ended, and 1 of 1 runs have not" in err
    assert f"orc resume {spec.run_id}" in err
    assert not client.run("cells").state.is_terminal
