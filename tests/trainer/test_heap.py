"""What a training frees it takes again without asking the kernel."""

import platform
import subprocess
import sys

import pytest

_USE = """
import resource, torch
from orchestrator.trainer.heap import hold_heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert hold_heap()
for _ in range(8):  # the places of the pools settle within some rounds
    before = faults()
    pools = [torch.ones(6 << 20) for _ in range(3)]  # of 24 MiB each, as those of a checkpoint
    del pools
    print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc has mallopt")
def test_memory_that_was_freed_is_there_for_the_next_checkpoint() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _USE], check=True, capture_output=True, text=True, timeout=120
    )
    first, *_, last = map(int, done.stdout.split())
    assert last < first / 10
