"""Simulate a cluster, its runs and its faults from a YAML file; prints what came of it."""

import argparse
import dataclasses
import gc
import json as json_text
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.cluster.script import Script, events
from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_pace import Physics
from orchestrator.cluster.sim_report import report
from orchestrator.config.files import read_file
from orchestrator.driver import drive
from orchestrator.errors import OrchestratorError
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.memory import MemoryStore

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "simulate_1000.yaml"


def main(config_path: str | None, *, seed: int | None = None, json: bool = False) -> int:
    """Run one simulation to its end and print the report.

    None takes configs/simulate_1000.yaml; `seed` replaces that of the file. Returns 0.

    Raises:
        NotFoundError: E5001, the file is not there.
        ConfigError: it is not a script.
    """
    script = _load(Path(config_path) if config_path else DEFAULT_CONFIG)
    if seed is not None:
        script = dataclasses.replace(script, seed=seed)
    outcome = simulate(script)
    if json:
        print(json_text.dumps({"schema_version": 1, **outcome}))
    else:
        for name, value in outcome.items():
            print(f"{name:<24} {_words(value)}")
    return 0


def simulate(script: Script) -> dict[str, Any]:
    """Run a script to its end; the report as plain values."""
    store = MemoryStore()
    scheduler = Scheduler(preempt=script.preempt, hold_after_seconds=script.hold_after_seconds)
    cluster = SimCluster(
        events(script),
        faults=script.faults,
        seed=script.seed,
        physics=Physics(speeds={group.gpu: group.speed for group in script.nodes}),
    )
    gc.disable()  # the journal only grows: searching it for rubbish takes a fifth of the time
    began, began_cpu = time.perf_counter(), time.process_time()
    try:
        num_events = drive(
            scheduler, cluster, store, cluster, keep_alive=lambda: cluster.num_arrivals > 0
        )
    finally:
        gc.enable()
    wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        **report(script, scheduler, cluster, store),
        "events": num_events,
        "wall_seconds": round(wall, 2),
        "events_per_second": round(num_events / wall),
        "events_per_cpu_second": round(num_events / cpu),
        "digest": store.digest(),
    }


def _load(path: Path) -> Script:
    return Script.of(read_file(path).value)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        sys.exit(main(args.config, seed=args.seed, json=args.json))
    except OrchestratorError as error:
        why = [f"  why   {line}" for line in error.why]
        fix = [f"  fix   {line}" for line in error.fix]
        print("\n".join([f"error[{error.code}]: {error}", *why, *fix]), file=sys.stderr)
        sys.exit(error.exit_code)
