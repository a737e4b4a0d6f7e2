"""Help is quick: no framework is imported to print it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cli.app import app, main

HEAVY = {"ray", "torch", "ultralytics", "timm", "sqlalchemy", "pydantic", "rich", "numpy"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator.cli.app import main; main(['--help']);"
        f"heavy = {HEAVY!r} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_takes_less_than_300_ms() -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "orchestrator", "--help"], check=True, capture_output=True
        )
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr] # every command has a callback
    assert {"train", "ls", "show", "logs", "stop", "resume", "explain", "queue", "gpus"} < set(
        names
    )
    for words in [[name] for name in names] + [["config", "show"], ["config", "validate"]]:
        assert main([*words, "--help"]) == 0
        assert "Usage: orc" in capsys.readouterr().out


def test_emulated_cards_are_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--emulate-gpus", "RTX 2060 6GB,2x RTX 4090"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("emulated" in line for line in lines[1:])
    assert main(["gpus", "--emulate-gpus", "RTX 2061"]) == 2
