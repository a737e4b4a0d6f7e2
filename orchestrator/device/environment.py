"""The environment variables of a worker, to be set before torch is imported; no torch here."""

import re
import sys
from collections.abc import Mapping

from orchestrator.types import Card

__all__ = ["environment"]

# GeForce cards from Ada on cannot read each other's memory over PCIe. Some drivers deny that, and
# NCCL then hangs or computes wrongly (NVIDIA's forum on two RTX 4090; corrected in 525.105.17).
# Without peers it goes through the host's memory, which is what these cards do anyway. Which
# network to take is left to NCCL, which knows the machine.
_WITHOUT_PEERS = re.compile(r"RTX [45]0[5-9]0")


def environment(
    card: Card | None,
    num_cpus: float,
    *,
    is_deterministic: bool = False,
    platform: str = sys.platform,
) -> Mapping[str, str]:
    """Variables that the process of a worker needs before it imports torch.

    A real card never gets `CUDA_VISIBLE_DEVICES`: whoever hands the card out (Ray) sets it, and a
    second hand in it books the card twice. Without a card, or with an emulated one, it is empty,
    so that nothing lands on a GPU that nobody counted.

    Args:
        card: The card of the worker; None is the CPU.
        num_cpus: CPUs that the worker may use; 0 means that they are not counted, and the
            number of threads is left to torch.
        is_deterministic: Whether cuBLAS must give equal bits from run to run; its workspace
            setting costs 32 MiB a handle.
        platform: As `sys.platform`.
    """
    variables = {"TOKENIZERS_PARALLELISM": "false", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if num_cpus > 0:
        threads = str(max(1, int(num_cpus)))
        variables |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if card is None or card.is_emulated:
        return variables | {"CUDA_VISIBLE_DEVICES": ""}
    if platform == "linux":
        # Reserved memory stays close to allocated memory even when the sizes of the batches vary.
        # The second name is the older one; torch reads it only where the first is unknown.
        segments = "expandable_segments:True"
        variables |= {"PYTORCH_ALLOC_CONF": segments, "PYTORCH_CUDA_ALLOC_CONF": segments}
    if _WITHOUT_PEERS.search(card.name):
        variables["NCCL_P2P_DISABLE"] = "1"
    if is_deterministic:
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return variables
