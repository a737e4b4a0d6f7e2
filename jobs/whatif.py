"""Answer what if: a workload on a cluster under several policies, side by side."""

import dataclasses
import json as json_text
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.script import Script
from orchestrator.config.files import read_file
from orchestrator.console.whatif import table_lines
from orchestrator.errors import ConfigError
from orchestrator.simulation.chart import check_target, draw
from orchestrator.simulation.clusters import Site, fitting, leave_out, site_of
from orchestrator.simulation.figures import IDLE_SHARE, plain
from orchestrator.simulation.job_lists import read_jobs
from orchestrator.simulation.policies import policies_of
from orchestrator.simulation.whatif import Case, case_of_jobs, case_of_script, demand_room, play

__all__ = ["Question", "is_script", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the words of the command line."""

    workload: Path
    cluster: Path | None = None
    policies: Sequence[str] = ()
    part: str | None = None
    seed: int | None = None
    limit: int | None = None
    skip_broken: bool = False
    plot: Path | None = None


def is_script(workload: Path) -> bool:
    """True when the file makes its runs up, by chance."""
    return workload.suffix.lower() in {".yaml", ".yml"}


def main(question: Question, *, json: bool = False) -> int:
    """Simulate every policy and print the comparison. Returns 0.

    Raises:
        NotFoundError: a file is not there.
        ConfigError: the workload, the cluster, a policy or the plot cannot be what was meant.
        PlanError: E2105, the cluster can never run some of the jobs.
    """
    policies = policies_of(question.policies)
    if question.limit is not None and question.limit < 1:
        raise ConfigError("--limit must be 1 or more", code="E1203", fix=("--limit 1000",))
    if question.plot is not None:
        check_target(question.plot)
    case, told = _script(question) if is_script(question.workload) else _jobs(question)
    found = []
    for policy in policies:
        began = time.perf_counter()
        outcome, num_events = play(case, policy)
        seconds = time.perf_counter() - began
        rate = f"{num_events / max(seconds, 1e-9):,.0f} a second"
        print(f"{policy.name}: {num_events:,} events in {seconds:.1f} s, {rate}", file=sys.stderr)
        found.append(outcome)
    rows = [plain(outcome) for outcome in found]
    if json:
        print(json_text.dumps({"schema_version": 1, **told, "policies": rows}))
    else:
        for name, value in told.items():
            for line in value if isinstance(value, list) else [value]:
                print(f"{name}: {line}")
        print("\n".join(["", *table_lines(rows)]))
    if question.plot is not None:
        draw(found, f"{question.workload.name}: {told['runs']:,} runs", question.plot)
        print(f"wrote {question.plot}", file=sys.stderr)
    return 0


def _script(question: Question) -> tuple[Case, dict[str, Any]]:
    if question.part is not None:
        raise ConfigError("a script has no parts", code="E1205", fix=("leave --part out",))
    script = Script.of(read_file(question.workload).value)
    if question.seed is not None:
        script = dataclasses.replace(script, seed=question.seed)
    if question.cluster is not None:
        script = dataclasses.replace(script, nodes=_site(question.cluster).groups)
    if question.limit is not None:
        count = min(question.limit, script.runs.count)
        script = dataclasses.replace(script, runs=dataclasses.replace(script.runs, count=count))
    case = case_of_script(script)
    demand_room(case)
    return case, _told(question, "script", script.runs.count, 0, case.site, [])


def _jobs(question: Question) -> tuple[Case, dict[str, Any]]:
    listed = read_jobs(
        question.workload, part=question.part, skip_broken=question.skip_broken
    ).first(question.limit)
    site = fitting(listed.jobs) if question.cluster is None else _site(question.cluster)
    jobs, out = leave_out(listed.jobs, site, skip=question.skip_broken)
    case = case_of_jobs(jobs, site, seed=question.seed or 0)
    notes = [*listed.notes, *out, "epochs of about 10 minutes, at most 100; a run never fails"]
    return case, _told(question, listed.source, len(jobs), listed.num_broken, site, notes)


def _site(path: Path) -> Site:
    return site_of(read_file(path).value, str(path))


def _told(
    question: Question, kind: str, num_runs: int, num_broken: int, site: Site, notes: list[str]
) -> dict[str, Any]:
    groups = ", ".join(f"{g.count} x {g.gpus} {g.gpu}" for g in site.groups)
    return {
        "workload": f"{question.workload} ({kind})",
        "runs": num_runs,
        "broken_rows": num_broken,
        "cluster": f"{groups} ({site.source})",
        "gpus": site.num_gpus,
        "notes": [*notes, f"an idle card draws {IDLE_SHARE:.0%} of its limit"],
    }
