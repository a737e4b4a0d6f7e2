"""The bench of decisions times every event that counts, and changes nothing of what is decided."""

import dataclasses
import json
from pathlib import Path

import pytest

from jobs import bench_schedule
from orchestrator.cluster.script import NodeGroup, Script, Workload
from orchestrator.simulation.policies import POLICIES
from orchestrator.simulation.whatif import case_of_script, play

NODE = NodeGroup(count=2, gpu="A100", memory_gib=40, gpus=4)
SMALL = Script(nodes=(NODE,), runs=Workload(count=40, every_seconds=1.0), seed=5)


def test_a_stopwatch_times_all_events_and_decides_as_the_scheduler_does() -> None:
    case, policy = case_of_script(SMALL), POLICIES["queue"]
    watch = bench_schedule.Stopwatch(policy.scheduler())
    found = bench_schedule.measure(case, policy, watch)
    _, num_events = play(case, policy)
    assert found["events"] == found["events_timed"] == num_events
    assert 20 < found["most_waiting"] <= 40
    assert 0 < found["wall_p50_ms"] <= found["wall_p99_ms"] <= found["wall_max_ms"]
    assert not watch.waiting


def test_it_stops_when_enough_is_measured_of_what_counts() -> None:
    case, policy = case_of_script(SMALL), POLICIES["queue"]
    watch = bench_schedule.Stopwatch(policy.scheduler(), least_waiting=20, most_events=7)
    assert bench_schedule.measure(case, policy, watch)["events_timed"] == 7
    assert len(watch.waiting) >= 20


def test_a_line_of_json_for_each_policy_and_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = dataclasses.replace(bench_schedule.CROWD, count=100)
    monkeypatch.setattr(bench_schedule, "CROWD", crowd)
    trace = tmp_path / "jobs.csv"
    trace.write_text("submit_s,duration_s,gpus\n0,60,1\n5,60,2\n")
    assert bench_schedule.main(["fifo"], trace, 1, 10) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["policy"] for row in rows] == ["fifo", "fifo"]
    assert rows[0]["events_timed"] == 0  # a hundred are no crowd
    assert rows[1]["events"] == rows[1]["events_timed"] > 6
