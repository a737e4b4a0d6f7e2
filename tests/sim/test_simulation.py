"""Whole simulations: equal bytes for equal seeds, every run ends, and the laws hold on the way."""

import dataclasses
import os
import subprocess
import sys

import pytest

from orchestrator.cluster.script import Faults, NodeGroup, Script, Workload, events
from orchestrator.cluster.sim import SimCluster
from orchestrator.driver import drive
from orchestrator.errors import ClusterError
from orchestrator.messages import (
    Event,
    GangFinished,
    GangStarted,
    NodeJoined,
    ProgressReported,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.memory import MemoryStore
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    Cause,
    PendingReason,
    Placement,
    RunState,
    Share,
)
from tests.strategies import GIB, make_node, make_spec

FAULTS = Faults(
    node_losses=3,
    start_failure=0.05,
    slow_start=0.03,
    worker_loss=0.05,
    straggler=0.05,
    lost_yield=0.2,
    lost_kill=0.2,
    silent_loss=0.3,
    late_event=0.3,
)
SCRIPT = Script(
    nodes=(
        NodeGroup(count=4, gpu="NVIDIA GeForce RTX 4090", memory_gib=24, speed=1.6),
        NodeGroup(count=2, gpu="NVIDIA A100-SXM4-80GB", memory_gib=80, speed=2.0),
    ),
    runs=Workload(
        count=120,
        every_seconds=5.0,
        gangs={1: 6, 2: 2, 8: 1, 12: 0.5},
        shared=0.5,
        share_gib=(3, 20),
        epochs=(2, 5),
        priorities={50: 8, 30: 1, 80: 1},
        dependent=0.3,
        too_large=0.2,
        user_errors=0.05,
    ),
    faults=FAULTS,
    seed=11,
)


class Simulation:
    def __init__(self, script: Script, *, check_every: int = 0) -> None:
        self.store = MemoryStore()
        self.scheduler = Scheduler(preempt=script.preempt)
        self.cluster = SimCluster(events(script), faults=script.faults, seed=script.seed)
        self.check_every = check_every
        self.num_seen = 0
        self.reasons: set[PendingReason | None] = set()  # seen at the checks

    def observe(self, _: Event) -> None:
        self.num_seen += 1
        if self.check_every and self.num_seen % self.check_every == 0:
            self.scheduler.check()
            self.reasons.update(status.reason for status in self.scheduler.statuses())

    def run(self) -> "Simulation":
        drive(
            self.scheduler,
            self.cluster,
            self.store,
            self.cluster,
            observe=self.observe,
            keep_alive=lambda: self.cluster.num_arrivals > 0,
        )
        return self


@pytest.mark.parametrize("seed", range(12))
def test_every_run_ends_and_every_law_holds_whatever_goes_wrong(seed: int) -> None:
    done = Simulation(dataclasses.replace(SCRIPT, seed=seed), check_every=7).run()
    statuses = done.scheduler.statuses()
    assert len(statuses) == SCRIPT.runs.count
    assert all(status.state.is_terminal for status in statuses)
    for status in statuses:
        epochs = [row.epoch for row in done.store.progress(status.run_id)]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch is missing or counted twice"
        if status.state is RunState.SUCCEEDED:
            assert len(epochs) == status.epochs


@pytest.mark.parametrize("seed", range(4))
def test_nodes_short_of_ram_take_fewer_runs_and_every_run_ends(seed: int) -> None:
    nodes = tuple(dataclasses.replace(group, ram_gib=64) for group in SCRIPT.nodes)
    runs = dataclasses.replace(SCRIPT.runs, ram_gib=(1, 8))
    script = dataclasses.replace(SCRIPT, nodes=nodes, runs=runs, seed=seed)
    done = Simulation(script, check_every=7).run()
    assert all(status.state.is_terminal for status in done.scheduler.statuses())
    assert PendingReason.WAITING_FOR_CPU_OR_RAM in done.reasons


@pytest.mark.parametrize("seed", range(4))
def test_without_planted_mistakes_every_run_succeeds(seed: int) -> None:
    runs = dataclasses.replace(SCRIPT.runs, user_errors=0.0)
    done = Simulation(dataclasses.replace(SCRIPT, runs=runs, seed=seed)).run()
    assert {status.state for status in done.scheduler.statuses()} == {RunState.SUCCEEDED}


@pytest.mark.parametrize("seed", range(4))
def test_no_run_starts_before_the_one_it_comes_after_has_succeeded(seed: int) -> None:
    done = Simulation(dataclasses.replace(SCRIPT, seed=seed)).run()
    before: dict[str, tuple[str, ...]] = {}
    succeeded: set[str] = set()
    num_dependent = 0
    for event in done.store.replay():
        match event:
            case RunSubmitted(spec=spec):
                before[spec.run_id] = spec.after
                num_dependent += bool(spec.after)
            case GangStarted(attempt=attempt):
                assert succeeded.issuperset(before[attempt.run_id])
            case GangFinished(attempt=attempt):
                succeeded.add(attempt.run_id)
            case _:
                pass
    assert num_dependent > 20
    causes = [status.cause for status in done.scheduler.statuses()]
    assert Cause.DEPENDENCY_FAILED in causes
    assert Cause.USER_ERROR in causes


def test_an_epoch_goes_on_where_the_last_checkpoint_ended() -> None:
    done = Simulation(SCRIPT).run()
    highest: dict[str, int] = {}
    for event in done.store.replay():
        if isinstance(event, ProgressReported):
            before = highest.get(event.attempt.run_id, 0)
            assert event.progress.epoch <= before + 1
            highest[event.attempt.run_id] = max(before, event.progress.epoch)


def test_equal_seeds_give_equal_journals_and_others_do_not() -> None:
    one, same = Simulation(SCRIPT).run(), Simulation(SCRIPT).run()
    other = Simulation(dataclasses.replace(SCRIPT, seed=12)).run()
    assert one.store.digest() == same.store.digest() != other.store.digest()


def test_a_replayed_journal_leads_to_the_same_statuses() -> None:
    done = Simulation(SCRIPT).run()
    again = Scheduler(preempt=SCRIPT.preempt)
    for event in done.store.replay():
        again.handle(event)
    assert again.statuses() == done.scheduler.statuses()


def test_the_journal_does_not_depend_on_hash_randomisation() -> None:
    code = (
        "from tests.sim.test_simulation import SCRIPT, Simulation;"
        "print(Simulation(SCRIPT).run().store.digest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert digests == {Simulation(SCRIPT).run().store.digest() + "\n"}


def test_a_simulation_that_stands_still_says_so() -> None:
    too_large = make_spec("r", gib=30)
    cluster = SimCluster(
        [
            NodeJoined(at=0.0, node=make_node("a", ("RTX 2060", 6 * GIB))),
            RunSubmitted(at=1.0, spec=too_large),
        ]
    )
    with pytest.raises(ClusterError, match="stands still"):
        drive(
            Scheduler(),
            cluster,
            MemoryStore(),
            cluster,
            keep_alive=lambda: cluster.num_arrivals > 0,
        )


@pytest.mark.parametrize("what", ["card a:0", "RAM of a"])
def test_the_world_notices_what_is_given_twice(what: str) -> None:
    node = make_node("a", ("RTX 2060", 6 * GIB), ram_gib=8)
    cluster = SimCluster([NodeJoined(at=0.0, node=node)])
    cluster.wait(None)
    size, ram = (4 * GIB, GIB) if what.startswith("card") else (GIB, 5 * GIB)
    share = Share(node_id=node.node_id, card=0, memory_bytes=size, host_bytes=ram)

    def start(name: str) -> StartGang:
        spec = make_spec(name)
        return StartGang(
            attempt=AttemptId(run_id=spec.run_id, number=1),
            spec=spec,
            batch=BatchPlan(effective_batch=8, world_size=1, micro_batch=8),
            placement=Placement((share,)),
        )

    cluster.apply(start("r1"))
    with pytest.raises(ClusterError, match=f"{what} is given twice"):
        cluster.apply(start("r2"))


def test_luck_is_keyed_so_that_another_run_does_not_change_it() -> None:
    def durations(num_runs: int) -> list[float]:
        runs = dataclasses.replace(SCRIPT.runs, count=num_runs)
        submitted = [
            e for e in events(dataclasses.replace(SCRIPT, runs=runs)) if isinstance(e, RunSubmitted)
        ]
        return [event.at for event in submitted[:10]]

    assert durations(10) == durations(50)
