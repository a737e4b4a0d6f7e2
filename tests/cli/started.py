"""The command in a process and a session of its own, with a store below a folder."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["start"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    variables = {"ORC_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "ORC_CONFIG": "none"}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
