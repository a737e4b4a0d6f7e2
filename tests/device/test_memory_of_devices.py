"""What devices tell about memory beyond the peak; cards that others fill while we compute."""

import json

import pytest
import torch

from orchestrator.device.cpu import CpuDevice
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.device.fake import FakeDevice
from orchestrator.types import Card

MIB = 1 << 20
CARD = Card(index=0, name="RTX 2060", memory_bytes=64 * MIB, is_emulated=True)


def held(num_bytes: int) -> torch.Tensor:
    return torch.zeros(num_bytes, dtype=torch.uint8)


def test_live_and_reserved_bytes_follow_the_tensors() -> None:
    for device in (EmulatedDevice(CARD, 32 * MIB), CpuDevice(measures_peak=True)):
        with device.session():
            tensor = held(4 * MIB)
            assert device.live_bytes() == device.reserved_bytes() == 4 * MIB
            del tensor
            assert device.live_bytes() == 0
        assert device.peak_reserved_bytes() == device.peak_bytes() == 4 * MIB


def test_budgets_are_told_and_the_cpu_has_none() -> None:
    assert EmulatedDevice(CARD, 32 * MIB).budget_bytes == 32 * MIB
    assert FakeDevice(100, foreign_bytes=30).budget_bytes == 70
    assert CpuDevice().budget_bytes is None


def test_another_process_that_takes_memory_shrinks_the_budget_and_gives_it_back() -> None:
    device = EmulatedDevice(CARD, 32 * MIB)
    with device.session():
        first = held(8 * MIB)
        device.set_foreign(52 * MIB)
        assert device.budget_bytes == 12 * MIB
        assert device.memory().foreign_bytes == 52 * MIB
        assert device.memory().used_bytes == 60 * MIB
        with pytest.raises(torch.OutOfMemoryError, match=r"budget is 12\.00 MiB"):
            held(5 * MIB)
        device.set_foreign(10 * MIB)
        assert device.budget_bytes == 32 * MIB
        assert held(5 * MIB).numel() == 5 * MIB
    assert first.numel() == 8 * MIB


@pytest.mark.parametrize("num_bytes", [-1, 65 * MIB])
def test_more_than_the_card_has_cannot_be_taken(num_bytes: int) -> None:
    with pytest.raises(ValueError, match="bytes on a card"):
        EmulatedDevice(CARD, MIB).set_foreign(num_bytes)


def test_the_snapshot_tells_by_operator_what_was_alive_when_memory_ran_out() -> None:
    device = EmulatedDevice(CARD, 8 * MIB)
    with device.session():
        kept = [held(MIB), held(MIB), torch.ones(MIB, dtype=torch.uint8)]
        with pytest.raises(torch.OutOfMemoryError):
            held(7 * MIB)
        del kept
    suffix, content = device.snapshot()
    told = json.loads(content)
    assert suffix == ".json"
    assert told["card"] == "RTX 2060 (emulated)"
    assert sum(row["num_storages"] for row in told["live"]) == 3
    assert sum(row["num_bytes"] for row in told["live"]) == 3 * MIB
    sizes = [row["num_bytes"] for row in told["live"]]
    assert sizes == sorted(sizes, reverse=True)


def test_every_device_has_a_snapshot_of_its_own() -> None:
    for device in (CpuDevice(), FakeDevice(100)):
        suffix, content = device.snapshot()
        assert suffix == ".txt"
        assert content
