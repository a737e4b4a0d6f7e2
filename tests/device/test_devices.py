"""The devices that need no GPU, against the contract, and what each adds to it."""

import gc
import traceback

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.device.fake import FakeDevice, FakeOutOfMemoryError
from orchestrator.ports import Device
from orchestrator.types import Card
from tests.contracts.device import BUDGET, MIB, DeviceContract

CARD = Card(index=0, name="RTX 2060", memory_bytes=6144 * MIB, is_emulated=True)


class TestEmulatedDevice(DeviceContract):
    def make(self) -> Device:
        return EmulatedDevice(CARD, BUDGET)

    def hold(self, device: Device, num_bytes: int) -> object:
        return torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device)


class TestFakeDevice(DeviceContract):
    error = FakeOutOfMemoryError
    limits_only_inside = False

    def make(self) -> Device:
        return FakeDevice(BUDGET)

    def hold(self, device: Device, num_bytes: int) -> object:
        assert isinstance(device, FakeDevice)
        device.allocate(num_bytes)
        return object()

    def free(self, device: Device, num_bytes: int) -> None:
        assert isinstance(device, FakeDevice)
        device.free(num_bytes)


def test_an_emulated_card_says_that_it_is_emulated() -> None:
    assert EmulatedDevice(CARD, BUDGET).name == "RTX 2060 (emulated)"


def test_the_error_tells_what_was_asked_what_is_live_and_the_budget() -> None:
    device = EmulatedDevice(CARD, BUDGET)
    with device.session():
        held = torch.zeros(2 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(7 * MIB, dtype=torch.uint8)
    assert held.numel() == 2 * MIB
    text = str(caught.value)
    assert "RTX 2060 (emulated) out of memory. Tried to allocate 7.00 MiB." in text
    assert "budget is 8.00 MiB" in text
    assert "2.00 MiB are held" in text
    assert "6.00 MiB are free" in text


def test_a_refused_result_is_gone_before_the_error_is_handled() -> None:
    device = EmulatedDevice(CARD, BUDGET)
    with device.session():
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(2 * BUDGET, dtype=torch.uint8)
        frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
        values = [value for frame in frames for value in frame.f_locals.values()]
        assert len(frames) > 1
        assert not any(isinstance(v, torch.Tensor) for v in values)


def test_an_out_of_memory_in_backward_arrives_as_itself() -> None:
    weight = torch.ones(MIB // 4, requires_grad=True)
    device = EmulatedDevice(CARD, 3 * MIB)
    with device.session():
        loss = (weight * 2).sum()
        held = torch.zeros(3 * MIB // 2, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    assert type(caught.value) is torch.OutOfMemoryError
    assert held.numel() > 0


def test_foreign_bytes_of_the_card_are_reported() -> None:
    card = Card(index=0, name="RTX 2060", memory_bytes=8 * MIB, foreign_bytes=MIB, is_emulated=True)
    device = EmulatedDevice(card, 4 * MIB)
    with device.session():
        held = torch.zeros(MIB, dtype=torch.uint8)
        assert device.memory().used_bytes == 2 * MIB
        assert device.memory().foreign_bytes == MIB
    assert held.numel() == MIB


@pytest.mark.parametrize("budget", [0, -1, 6145 * MIB])
def test_a_budget_that_the_card_cannot_have_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        EmulatedDevice(CARD, budget)


def test_a_session_leaves_no_modes_or_hooks_behind() -> None:
    before = _get_current_dispatch_mode_stack()
    device = EmulatedDevice(CARD, BUDGET)
    with device.session():
        module = torch.nn.Linear(4, 4)
        module(torch.zeros(2, 4)).sum().backward()
    assert _get_current_dispatch_mode_stack() == before
    assert not module._forward_hooks
    assert not module._backward_hooks
    assert not module.weight._backward_hooks


def test_events_tell_births_and_deaths() -> None:
    device = EmulatedDevice(CARD, BUDGET)
    events = device.keep_events()
    with device.session():
        first = torch.zeros(1000, dtype=torch.uint8)
        del first
        gc.collect()
        second = torch.zeros(10, dtype=torch.uint8)
    assert [(e.storage, e.num_bytes) for e in events] == [(0, 1000), (0, -1000), (1, 10)]
    assert second.numel() == 10


def test_the_cpu_limits_nothing_and_measures_only_when_asked() -> None:
    plain, measured = CpuDevice(), CpuDevice(measures_peak=True)
    for device in (plain, measured):
        device.reset_peak()
        with device.session():
            held = torch.zeros(4 * MIB, dtype=torch.uint8)
            assert held.numel() == 4 * MIB
        device.release()
        assert device.torch_device == "cpu"
        memory = device.memory()
        assert 0 < memory.foreign_bytes <= memory.used_bytes < memory.total_bytes
    assert plain.peak_bytes() == 0
    assert measured.peak_bytes() == 4 * MIB


def test_without_measuring_the_cpu_enters_no_mode() -> None:
    before = _get_current_dispatch_mode_stack()
    with CpuDevice().session():
        assert _get_current_dispatch_mode_stack() == before


def test_the_cpu_knows_when_the_host_is_out_of_memory() -> None:
    device = CpuDevice()
    assert device.is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)
    assert not device.is_out_of_memory(RuntimeError("shape mismatch"))
