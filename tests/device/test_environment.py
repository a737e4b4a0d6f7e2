"""A worker's environment is decided before torch is imported, from the card and the CPUs."""

import subprocess
import sys

import pytest

from orchestrator.device.environment import environment
from orchestrator.types import Card

REAL = Card(index=1, name="RTX 2060", memory_bytes=6 << 30)
EMULATED = Card(index=1, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True)


def test_a_real_card_never_gets_cuda_visible_devices() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in environment(REAL, 4)


@pytest.mark.parametrize("card", [None, EMULATED])
def test_without_a_real_card_no_gpu_is_visible(card: Card | None) -> None:
    assert environment(card, 4)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("card", [None, EMULATED, REAL])
@pytest.mark.parametrize(("num_cpus", "threads"), [(0, None), (0.5, "1"), (1, "1"), (3.9, "3")])
def test_threads_follow_the_cpus_and_are_left_alone_when_those_are_not_counted(
    card: Card | None, num_cpus: float, threads: str | None
) -> None:
    variables = environment(card, num_cpus)
    assert variables.get("OMP_NUM_THREADS") == threads
    assert variables.get("MKL_NUM_THREADS") == threads


def test_expandable_segments_are_for_real_cards_on_linux() -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    on_linux = environment(REAL, 1, platform="linux")
    assert {on_linux[name] for name in names} == {"expandable_segments:True"}
    for other in (environment(REAL, 1, platform="win32"), environment(EMULATED, 1)):
        assert not set(names) & set(other)


def test_a_deterministic_run_fixes_the_workspace_of_cublas() -> None:
    assert environment(REAL, 1, is_deterministic=True)["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in environment(REAL, 1)


def test_every_value_is_text_and_the_order_of_cards_is_that_of_the_bus() -> None:
    for card in (None, EMULATED, REAL):
        variables = environment(card, 2)
        assert all(isinstance(value, str) for value in variables.values())
        assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert variables["TOKENIZERS_PARALLELISM"] == "false"


def test_asking_for_the_environment_imports_no_torch() -> None:
    code = "import sys, orchestrator.device.environment, orchestrator.device.catalogue;"
    code += "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "is_off"),
    [
        ("NVIDIA GeForce RTX 4090", True),
        ("RTX 5070 Ti", True),
        ("RTX 3090", False),
        ("NVIDIA RTX 5000 Ada Generation", False),
        ("NVIDIA H100 80GB HBM3", False),
    ],
)
def test_cards_without_peers_are_told_apart(name: str, is_off: bool) -> None:
    card = Card(index=0, name=name, memory_bytes=1 << 34)
    assert ("NCCL_P2P_DISABLE" in environment(card, 1)) == is_off
