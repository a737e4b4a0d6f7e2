"""How long decisions take with 10,000 waiting runs on 1,000 nodes, and a whole trace."""

import argparse
import dataclasses
import gc
import json as json_text
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from orchestrator.cluster.script import NodeGroup, Script, Workload
from orchestrator.errors import OrchestratorError
from orchestrator.messages import Action, Event, RunSubmitted
from orchestrator.schedule.forecast import Score
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.simulation.clusters import Site
from orchestrator.simulation.figures import quantile
from orchestrator.simulation.job_lists import read_jobs
from orchestrator.simulation.policies import NamedPolicy, policies_of
from orchestrator.simulation.whatif import Case, case_of_jobs, case_of_script, play
from orchestrator.types import RunId, RunState, RunStatus, Seconds

NODE = NodeGroup(count=1_000, gpu="NVIDIA A100-SXM4-80GB", memory_gib=80, gpus=8)
NUM_QUEUES = 8
CROWD = Workload(
    count=20_000,
    every_seconds=0.02,  # all have come before the first has ended
    gangs={1: 50, 2: 15, 4: 15, 8: 14, 16: 3, 32: 2, 64: 1},
    shared=0.3,
    share_gib=(3, 20),
    epochs=(2, 12),
    epoch_seconds=(300, 900),
    priorities={50: 80, 30: 10, 80: 10},
)


class Enough(Exception):  # noqa: N818 - it ends a measurement, it is no error
    """So many events were measured."""


@dataclass(slots=True)
class Stopwatch:
    """A scheduler, with the seconds of each event that it handles while enough runs wait."""

    scheduler: Scheduler
    least_waiting: int = 0
    most_events: int | None = None
    wall: list[Seconds] = field(default_factory=list)
    cpu: list[Seconds] = field(default_factory=list)
    waiting: set[RunId] = field(default_factory=set)
    most_waiting: int = 0

    def handle(self, event: Event) -> tuple[Action, ...]:
        """As the scheduler's, measured."""
        began, began_cpu = time.perf_counter(), time.thread_time()
        actions = self.scheduler.handle(event)
        if len(self.waiting) >= self.least_waiting:
            self.cpu.append(time.thread_time() - began_cpu)
            self.wall.append(time.perf_counter() - began)
            if self.most_events is not None and len(self.wall) >= self.most_events:
                raise Enough
        return actions

    def drain_changes(self) -> tuple[RunStatus, ...]:
        """As the scheduler's; who waits is noted."""
        changed = self.scheduler.drain_changes()
        for status in changed:
            if status.state is RunState.PENDING:
                self.waiting.add(status.run_id)
            else:
                self.waiting.discard(status.run_id)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return changed

    def demand_row(self, event: Event) -> None:
        """As the scheduler's."""
        self.scheduler.demand_row(event)

    def orphans(self, at: Seconds) -> tuple[Event, ...]:
        """As the scheduler's."""
        return self.scheduler.orphans(at)

    @property
    def next_wakeup(self) -> Seconds | None:
        """As the scheduler's."""
        return self.scheduler.next_wakeup

    @property
    def is_idle(self) -> bool:
        """As the scheduler's."""
        return self.scheduler.is_idle

    @property
    def is_drained(self) -> bool:
        """As the scheduler's."""
        return self.scheduler.is_drained

    @property
    def score(self) -> Score:
        """As the scheduler's."""
        return self.scheduler.score

    def told(self) -> dict[str, float]:
        """Quantiles in milliseconds: on the clock, and of the processor alone."""
        found: dict[str, float] = {
            "events_timed": len(self.wall),
            "most_waiting": self.most_waiting,
        }
        for name, seconds in (("wall", sorted(self.wall)), ("cpu", sorted(self.cpu))):
            for label, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
                found[f"{name}_{label}_ms"] = round(quantile(seconds, part) * 1e3, 3)
        return found


def crowd() -> Case:
    """20,000 runs of eight queues that come at once to 1,000 nodes."""
    case = case_of_script(Script(nodes=(NODE,), runs=CROWD, seed=1))
    happenings = []
    for number, event in enumerate(case.happenings):
        if isinstance(event, RunSubmitted):
            spec = dataclasses.replace(event.spec, queue=f"q{number % NUM_QUEUES}")
            event = dataclasses.replace(event, spec=spec)  # noqa: PLW2901 - the same, renamed
        happenings.append(event)
    return dataclasses.replace(case, happenings=tuple(happenings))


def measure(case: Case, policy: NamedPolicy, watch: Stopwatch) -> dict[str, float]:
    """Play a case under a policy with a stopwatch; the figures of its decisions."""
    timed = dataclasses.replace(policy, scheduler=lambda: cast("Scheduler", watch))
    gc.collect()
    began, began_cpu = time.perf_counter(), time.process_time()
    num_events = 0
    try:
        _, num_events = play(case, timed)
    except Enough:
        num_events = len(watch.wall)
    return {
        "events": num_events,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - began_cpu, 1),
        **watch.told(),
    }


def main(names: list[str], trace: Path | None, num_nodes: int, num_events: int) -> int:
    """Measure every policy, on the crowd and on the trace if there is one. Returns 0."""
    for policy in policies_of(names):
        watch = Stopwatch(policy.scheduler(), least_waiting=10_000, most_events=num_events)
        found = measure(crowd(), policy, watch)
        print(json_text.dumps({"case": "crowd", "policy": policy.name, **found}), flush=True)
        if trace is None:
            continue
        group = dataclasses.replace(NODE, count=num_nodes)
        case = case_of_jobs(read_jobs(trace).jobs, Site(groups=(group,), source="by hand"))
        found = measure(case, policy, Stopwatch(policy.scheduler()))
        row = {"case": trace.parent.name, "nodes": num_nodes, "policy": policy.name, **found}
        print(json_text.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", action="append", default=[])
    parser.add_argument("--trace", type=Path, help="a job list, such as Philly's")
    parser.add_argument("--nodes", type=int, default=310, help="of eight cards, for the trace")
    parser.add_argument("--events", type=int, default=20_000, help="to time on the crowd")
    args = parser.parse_args()
    try:
        sys.exit(main(args.policy, args.trace, args.nodes, args.events))
    except OrchestratorError as error:
        print(f"error[{error.code}]: {error}", *error.why, file=sys.stderr, sep="\n  ")
        sys.exit(error.exit_code)
