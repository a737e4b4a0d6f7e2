"""The helpers for notebooks, where there is no GPU, and where one is."""

import subprocess
import sys

import pytest
import torch

from orchestrator.memory import clear_gpu_memory, monitor_gpu_memory, print_gpu_memory

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")


@without_gpu
def test_without_a_gpu_they_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_gpu_memory()
    clear_gpu_memory()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert all(line.startswith("no GPU") for line in told)


@without_gpu
def test_a_monitored_function_does_what_it_did_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @monitor_gpu_memory
    def double(value: int, *, plus: int = 0) -> int:
        """Twice."""
        return 2 * value + plus

    assert double(4, plus=1) == 9
    assert (double.__name__, double.__doc__) == ("double", "Twice.")
    assert capsys.readouterr().out.startswith("double: 0.00 s; no GPU")


def test_a_monitored_function_that_raises_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    @monitor_gpu_memory
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        broken()
    assert capsys.readouterr().out.startswith("broken: ")


def test_importing_them_imports_no_torch() -> None:
    code = "import sys, orchestrator.memory; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.gpu
@with_gpu
def test_a_gpu_is_told_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    held = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")

    @monitor_gpu_memory
    def take() -> None:
        torch.empty(1 << 29, dtype=torch.uint8, device="cuda")

    take()
    print_gpu_memory()
    del held
    clear_gpu_memory()
    lines = capsys.readouterr().out.splitlines()
    assert "peak 0.75 GiB, +0.00 GiB" in lines[0]
    assert torch.cuda.get_device_name(0)[:20] in lines[2]
