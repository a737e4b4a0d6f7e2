"""The seeded schedules of faults find bugs that are planted by hand, nearly all of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
MAX_SEEDS = 10_000
LEAST_FOUND = 0.95


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTATIONS) >= 30
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m.name for m in MUTATIONS])
def test_the_text_that_a_bug_replaces_is_there_exactly_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new


def seeds_until_found(mutation: Mutation, folder: Path) -> int | None:
    """Schedules that were played until a law broke; None when none did."""
    for name in ("orchestrator", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    mutation.plant(folder)
    command = [sys.executable, "-m", "jobs.bench_faults", "--json", "--until-broken"]
    done = subprocess.run(
        [*command, "--schedules", str(MAX_SEEDS)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    report = json.loads(done.stdout)
    return int(report["schedules"]) if report["broken"] else None


@pytest.mark.slow
def test_nearly_every_planted_bug_is_found(tmp_path: Path) -> None:
    found = {
        mutation.name: seeds_until_found(mutation, tmp_path / str(number))
        for number, mutation in enumerate(MUTATIONS)
    }
    missed = [name for name, seeds in found.items() if seeds is None]
    told = "\n".join(f"{seeds or 'never':>7} {name}" for name, seeds in found.items())
    sys.stdout.write(f"{told}\n")
    assert len(found) - len(missed) >= LEAST_FOUND * len(found), missed
