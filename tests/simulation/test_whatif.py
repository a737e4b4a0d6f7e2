"""What-ifs: figures that can be computed by hand, laws of the policies, equal bytes."""

import dataclasses
import json
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.script import Faults, NodeGroup, Script, Workload, events
from orchestrator.cluster.sim import SimCluster
from orchestrator.driver import drive
from orchestrator.errors import ConfigError, PlanError
from orchestrator.messages import Event, GangStarted
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.standard import POLICIES as STANDARD
from orchestrator.schedule.standard import standard_scheduler
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.clusters import Site, demand, fitting, leave_out, site_of
from orchestrator.simulation.figures import IDLE_SHARE, jain, plain, quantile
from orchestrator.simulation.jobs import Job
from orchestrator.simulation.policies import POLICIES, NamedPolicy, policies_of
from orchestrator.simulation.tally import Tally
from orchestrator.simulation.whatif import Case, case_of_jobs, case_of_script, play
from orchestrator.store.memory import MemoryStore

A100 = "NVIDIA A100-SXM4-80GB"
ROUNDS = NamedPolicy(name="rounds", summary="", scheduler=partial(Scheduler, policy=ShortestFlow()))
START = 12.5  # seconds until a gang is up, on average; 5 to 20


def site(count: int, gpus: int, speed: float = 1.0) -> Site:
    group = NodeGroup(count=count, gpu=A100, memory_gib=79, gpus=gpus, speed=speed)
    return Site(groups=(group,), source="by hand")


def job(name: str, submit_s: float, duration_s: float, num_gpus: int = 1, queue: str = "q") -> Job:
    return Job(name=name, submit_s=submit_s, duration_s=duration_s, num_gpus=num_gpus, queue=queue)


def exactly(case: Case) -> Case:
    return dataclasses.replace(case, scatter=0.0)


@pytest.mark.parametrize("policy", ["queue", "fifo"])
def test_two_jobs_on_one_card_come_to_what_the_hand_computes(policy: str) -> None:
    jobs = [job("a", 0, 60_000), job("b", 0, 60_000, queue="r")]
    found, _ = play(exactly(case_of_jobs(jobs, site(1, 1))), POLICIES[policy])
    assert found.states == {"SUCCEEDED": 2}
    assert found.completion_s == pytest.approx([60_000, 120_000], abs=50)
    assert found.waiting_s == pytest.approx([0, 60_000], abs=50)
    assert found.makespan_s == pytest.approx(120_000, abs=50)
    assert found.utilisation == pytest.approx(1.0, abs=1e-3)
    # The first had half of the card due and took all; the second had 2 beside it for half its life.
    assert found.fairness == pytest.approx([1 / 2, 2 / 1.5], rel=1e-3)
    x, y = 2.0, 0.75
    assert found.jain == pytest.approx((x + y) ** 2 / (2 * (x * x + y * y)), rel=1e-3)
    assert found.energy_kwh == pytest.approx(400 * 120_000 / 3.6e6, rel=1e-3)
    assert found.restarts == 0
    assert found.forecast_error == pytest.approx(0.0, abs=1e-6)


def test_a_card_that_idles_draws_its_share_and_a_faster_one_halves_the_time() -> None:
    found, _ = play(exactly(case_of_jobs([job("a", 0, 6_000)], site(1, 4))), POLICIES["queue"])
    assert found.utilisation == pytest.approx(0.25, abs=1e-3)
    joules = 400 * (1 + 3 * IDLE_SHARE) * found.makespan_s
    assert found.energy_kwh == pytest.approx(joules / 3.6e6, rel=1e-6)
    fast, _ = play(exactly(case_of_jobs([job("a", 0, 6_000)], site(1, 1, 2.0))), POLICIES["queue"])
    assert fast.completion_s == pytest.approx([3_000 + START], abs=START)
    assert fast.fairness == pytest.approx([1.0], rel=5e-3)


def test_energy_is_not_told_of_cards_that_the_catalogue_does_not_know() -> None:
    group = NodeGroup(count=1, gpu="Abacus 9000", memory_gib=8, gpus=1)
    cluster = Site(groups=(group,), source="by hand")
    found, _ = play(case_of_jobs([job("a", 0, 60)], cluster), POLICIES["queue"])
    assert found.energy_kwh is None
    assert plain(found)["energy_kwh"] is None


def test_strict_order_lets_nobody_pass_and_the_queue_does() -> None:
    jobs = [job("long", 0, 6_000), job("wide", 100, 600, 2), job("short", 200, 600)]
    case = case_of_jobs(jobs, site(1, 2))
    assert started(case, "fifo") == ["long", "wide", "short"]
    assert started(case, "queue") == ["long", "short", "wide"]


def started(case: Case, policy: str) -> list[str]:
    names: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, GangStarted):
            names.append(event.attempt.run_id)

    play(case, POLICIES[policy], observe=note)
    return names


JOBS = st.lists(
    st.tuples(st.floats(0, 5_000), st.floats(1, 4_000), st.integers(1, 6), st.sampled_from("abc")),
    min_size=1,
    max_size=25,
)


@given(rows=JOBS, count=st.integers(2, 4), gpus=st.integers(3, 4))
@settings(max_examples=60, deadline=None)
def test_laws_of_every_policy(
    rows: list[tuple[float, float, int, str]], count: int, gpus: int
) -> None:
    ordered = sorted(rows)
    jobs = [job(f"j{i:02}", *row[:3], queue=row[3]) for i, row in enumerate(ordered)]
    cluster = site(count, gpus)
    case = case_of_jobs(jobs, cluster, seed=count)
    for policy in (*POLICIES.values(), ROUNDS):
        found, num_events = play(case, policy)
        assert found.states == {"SUCCEEDED": len(jobs)}
        assert num_events >= 3 * len(jobs)
        assert 0 < found.utilisation <= 1.0 + 1e-9
        assert all(num <= cluster.num_gpus for _, num in found.busy)
        assert found.busy[-1][1] == 0
        assert 1 / len(jobs) <= found.jain <= 1.0 + 1e-9
        assert all(a <= b for a, b in pairwise(found.completion_s))
        if policy.name in {"queue", "fifo"}:  # nobody is asked to leave, so nothing is repeated
            work = sum(j.duration_s * 1.1 + 30 for j in jobs)
            assert found.makespan_s <= work + jobs[-1].submit_s
            assert found.restarts == 0
    ups = play_starts(case)
    assert ups == sorted(ups)


def play_starts(case: Case) -> list[str]:
    """The jobs in the order in which strict order gave them cards."""
    scheduler = POLICIES["fifo"].scheduler()
    orders: dict[str, float] = {}

    def note(_: Event) -> None:
        for status in scheduler.statuses():
            if status.attempt and status.run_id not in orders:
                orders[status.run_id] = len(orders)

    policy = dataclasses.replace(POLICIES["fifo"], scheduler=lambda: scheduler)
    play(case, policy, observe=note)
    return list(orders)


SCRIPT = Script(
    nodes=(
        NodeGroup(count=3, gpu="NVIDIA GeForce RTX 4090", memory_gib=24, speed=1.6),
        NodeGroup(count=2, gpu=A100, memory_gib=80, speed=2.0),
    ),
    runs=Workload(
        count=80,
        every_seconds=5.0,
        gangs={1: 6, 2: 2, 8: 1},
        shared=0.5,
        share_gib=(3, 20),
        epochs=(2, 5),
        priorities={50: 8, 80: 1},
        too_large=0.2,
        user_errors=0.05,
    ),
    faults=Faults(
        node_losses=2,
        start_failure=0.05,
        worker_loss=0.05,
        lost_yield=0.2,
        lost_kill=0.2,
        silent_loss=0.3,
        late_event=0.3,
    ),
    seed=11,
)


def test_the_tally_fences_as_a_store_does_and_counts_the_same_failures() -> None:
    case = case_of_script(SCRIPT)
    found, num_events = play(case, POLICIES["queue"])
    store = MemoryStore()
    scheduler = standard_scheduler()
    cluster = SimCluster(events(SCRIPT), faults=SCRIPT.faults, seed=11, physics=case.physics)
    alike = drive(scheduler, cluster, store, cluster, keep_alive=lambda: cluster.num_arrivals > 0)
    assert num_events == alike
    assert sum(found.failures.values()) > 10
    assert found.restarts == sum(max(s.attempt - 1, 0) for s in scheduler.statuses())
    ended = sorted((s.ended_at or 0.0) - s.submitted_at for s in scheduler.statuses())
    assert list(found.completion_s) == ended


def test_whole_cards_are_held_as_long_as_the_simulated_world_says() -> None:
    whole = dataclasses.replace(SCRIPT, faults=Faults())
    whole = dataclasses.replace(whole, runs=dataclasses.replace(whole.runs, shared=0.0))
    happenings = events(whole)
    cluster = SimCluster(happenings, physics=case_of_script(whole).physics, seed=11)
    tally = Tally({(node.node_id, card.index): card.name
                   for event in happenings if (node := getattr(event, "node", None))
                   for card in node.cards})  # fmt: skip
    drive(Scheduler(), cluster, tally, cluster, keep_alive=lambda: cluster.num_arrivals > 0)
    assert sum(tally.busy_seconds.values()) == pytest.approx(cluster.busy_card_seconds)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_seed_gives_the_same_bytes_and_another_does_not(policy: str) -> None:
    def text(seed: int) -> str:
        jobs = [job(f"j{i}", i * 40.0, 900.0 * (i % 7 + 1), i % 3 + 1) for i in range(40)]
        return json.dumps(
            plain(play(case_of_jobs(jobs, site(2, 4), seed=seed), POLICIES[policy])[0])
        )

    assert text(3) == text(3) != text(4)


def test_a_cluster_that_fits_holds_the_widest_job_and_most_of_the_demand() -> None:
    steady = [job(f"j{i}", i * 100.0, 1_000.0, 2) for i in range(1_000)]
    assert demand(steady) == 20  # ten at a time with two cards each
    assert fitting(steady).num_gpus == 24
    assert fitting([*steady, job("wide", 100_000, 10, 100)]).num_gpus == 104
    assert demand([job("only", 0, 10, 3)]) == 3


def test_jobs_that_can_never_run_refuse_the_cluster_or_are_left_out() -> None:
    jobs = [
        job("a", 0, 60),
        job("b", 1, 60, 9),
        dataclasses.replace(job("c", 2, 60), memory_gib=90),
    ]
    with pytest.raises(PlanError, match="2 of 3 jobs can never run") as caught:
        leave_out(jobs, site(2, 4), skip=False)
    assert caught.value.exit_code == 5
    assert caught.value.why[0] == "b asks for 9 GPUs"
    able, notes = leave_out(jobs, site(2, 4), skip=True)
    assert [each.name for each in able] == ["a"]
    assert notes[0].startswith("2 jobs were left out")
    found, _ = play(case_of_jobs(able, site(2, 4)), POLICIES["queue"])
    assert found.states == {"SUCCEEDED": 1}


def test_a_cluster_file_names_nodes_and_the_catalogue_knows_their_memory() -> None:
    found = site_of({"nodes": [{"count": 2, "gpu": "RTX 4090", "gpus": 4}]}, "mine.yaml")
    assert found.num_gpus == 8
    assert found.groups[0].memory_gib == pytest.approx(24, abs=0.5)
    several: list[object] = [
        None,
        [],
        {"nodes": []},
        {"nodes": [{"count": 1}]},
        {"runs": {}},
        {"nodes": [{"count": 0, "gpu": "RTX 4090"}]},
        {"nodes": [{"count": 1, "gpu": "RTX 4090", "speed": 0}]},
        {"nodes": [{"count": 1, "gpu": "Abacus 9000"}]},
    ]
    for wrong in several:
        with pytest.raises(ConfigError):
            site_of(wrong, "mine.yaml")


def test_an_unknown_policy_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no policy 'fiffo'") as caught:
        policies_of(["queue", "fiffo"])
    assert caught.value.fix == ("--policy fifo",)
    assert [policy.name for policy in policies_of(["fifo", "fifo"])] == ["fifo"]
    assert [policy.name for policy in policies_of([])] == list(POLICIES)
    assert {"queue", "fifo", *STANDARD} == set(POLICIES)


def test_rounds_let_short_jobs_go_first_where_the_queue_lets_them_wait() -> None:
    long = [job(f"long{i}", i, 30_000, 4) for i in range(4)]
    short = [job(f"short{i}", 1_000 + i, 600, 4) for i in range(8)]
    jobs = sorted([*long, *short], key=lambda each: each.submit_s)
    case = case_of_jobs(jobs, site(1, 8))
    means = [sum(play(case, policy)[0].completion_s) / 12 for policy in (POLICIES["fifo"], ROUNDS)]
    assert means[1] < 0.7 * means[0]


def test_quantiles_and_jain_by_hand() -> None:
    assert quantile([], 0.5) == 0.0
    assert [quantile([1, 2, 3, 4], part) for part in (0.0, 0.25, 0.5, 0.99, 1.0)] == [1, 1, 2, 4, 4]
    assert jain([]) == jain([5.0]) == jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
