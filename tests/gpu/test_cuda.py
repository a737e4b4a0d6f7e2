"""A real card against the contract of devices; and what happens where there is none."""

import pytest
import torch

from orchestrator.device import nvml
from orchestrator.device.cuda import CudaDevice
from orchestrator.errors import NoDeviceError
from orchestrator.ports import Device
from orchestrator.types import Card
from tests.contracts.device import BUDGET, MIB, DeviceContract

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
# torch reserves 2 and 20 MiB at a time, so a real budget is a multiple of the contract's bytes
SCALE = 64


def first_card() -> Card:
    cards = nvml.cards()
    assert cards, "CUDA is there and NVML shows no card"
    return cards[0]


@pytest.mark.gpu
@needs_cuda
class TestCudaDevice(DeviceContract):
    def make(self) -> Device:
        torch.cuda.empty_cache()
        return CudaDevice(first_card(), BUDGET * SCALE)

    def hold(self, device: Device, num_bytes: int) -> object:
        return torch.empty(num_bytes * SCALE, dtype=torch.uint8, device=device.torch_device)

    def live(self, device: Device) -> int:
        return torch.cuda.memory_allocated(device.torch_device)

    def test_after_running_out_the_same_work_cut_smaller_succeeds(self) -> None:
        device = self.make()
        with device.session():
            with pytest.raises(torch.OutOfMemoryError):
                self.hold(device, 2 * BUDGET)
            device.release()
            assert self.hold(device, BUDGET // 2) is not None
            assert device.peak_bytes() <= BUDGET * SCALE


@pytest.mark.gpu
@needs_cuda
def test_the_reserve_stays_within_the_budget_and_the_driver_sees_this_process() -> None:
    device = CudaDevice(first_card(), 512 * MIB)
    with device.session():
        held = torch.empty(256 * MIB, dtype=torch.uint8, device=device.torch_device)
        assert device.peak_bytes() <= device.peak_reserved_bytes() <= 512 * MIB
        assert device.memory().used_bytes >= held.numel()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_there_is_an_error_with_facts_and_no_fall_back() -> None:
    card = Card(index=0, name="NVIDIA GeForce RTX 2060", memory_bytes=6 << 30)
    with pytest.raises(NoDeviceError) as caught:
        CudaDevice(card, 1 << 30)
    assert caught.value.code == "E2010"
    assert any("torch" in line for line in caught.value.why)
    assert any("device: cpu" in line for line in caught.value.fix)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        CudaDevice(Card(index=0, name="x", memory_bytes=1), 0)
