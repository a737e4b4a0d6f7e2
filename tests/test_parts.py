"""Which device a share of a card gets, and what a process imports before it is given a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.parts import LocalParts
from orchestrator.errors import PlanError
from orchestrator.types import Card

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "context"), [("NVIDIA GeForce RTX 2060", 359), ("a card of tomorrow", 708)]
)
def test_a_share_that_does_not_even_hold_the_context_is_refused(name: str, context: int) -> None:
    card = Card(index=0, name=name, memory_bytes=6144 * MIB)
    with pytest.raises(PlanError, match="do not hold a training") as caught:
        LocalParts().device(card, context * MIB)
    assert str(context) in caught.value.why[0]


def test_an_emulated_card_has_no_context() -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=6144 * MIB, is_emulated=True)
    assert LocalParts().device(card, 100 * MIB).memory().total_bytes == 6144 * MIB


def test_getting_ready_for_yolo_does_not_import_ultralytics(tmp_path: Path) -> None:
    # Its settings would then be those in the home folder, which all runs and people share.
    text = (
        "import sys\n"
        "from jobs.parts import LocalParts\n"
        "LocalParts().get_ready('yolo', None)\n"
        "print('torchvision' in sys.modules, any('ultralytics' in name for name in sys.modules))\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["True", "False"]
