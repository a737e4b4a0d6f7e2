"""What every Device promises; a suite per implementation is a subclass that makes one."""

from abc import ABC, abstractmethod

import pytest
import torch

from orchestrator.ports import Device

MIB = 1 << 20
BUDGET = 8 * MIB


class DeviceContract(ABC):
    """Laws of a device with a budget of `BUDGET` bytes, of which nothing is held yet."""

    error: type[BaseException] = torch.OutOfMemoryError
    limits_only_inside = True

    @abstractmethod
    def make(self) -> Device:
        """A new device."""

    @abstractmethod
    def hold(self, device: Device, num_bytes: int) -> object:
        """Hold `num_bytes` on the device for as long as the returned object lives."""

    def live(self, device: Device) -> int:
        """Bytes that this process holds on the device."""
        memory = device.memory()
        return memory.used_bytes - memory.foreign_bytes

    def test_it_has_a_name_for_people_and_one_for_torch(self) -> None:
        device = self.make()
        assert device.name
        assert torch.device(device.torch_device).type in {"cpu", "cuda"}

    def test_its_memory_adds_up(self) -> None:
        memory = self.make().memory()
        assert 0 <= memory.foreign_bytes <= memory.used_bytes <= memory.total_bytes
        assert memory.free_bytes == memory.total_bytes - memory.used_bytes

    def test_the_peak_is_never_below_what_is_held(self) -> None:
        device = self.make()
        device.reset_peak()
        with device.session():
            held = []
            for _ in range(4):
                held.append(self.hold(device, MIB))
                assert device.peak_bytes() >= self.live(device) >= len(held) * MIB

    def test_the_peak_outlives_what_made_it_until_it_is_reset(self) -> None:
        device = self.make()
        with device.session():
            held = self.hold(device, 4 * MIB)
            del held
            self.free(device, 4 * MIB)
            assert device.peak_bytes() >= 4 * MIB
            device.reset_peak()
            assert device.peak_bytes() < 4 * MIB

    def test_beyond_the_budget_it_runs_out_of_memory_and_knows_it(self) -> None:
        device = self.make()
        with device.session(), pytest.raises(self.error) as caught:
            self.hold(device, BUDGET + MIB)
        assert type(caught.value) is self.error
        assert device.is_out_of_memory(caught.value)

    def test_the_budget_counts_everything_that_is_held(self) -> None:
        device = self.make()
        with device.session():
            held = [self.hold(device, 3 * MIB), self.hold(device, 3 * MIB)]
            with pytest.raises(self.error):
                self.hold(device, 3 * MIB)
            assert len(held) == 2

    def test_after_running_out_the_same_work_cut_smaller_succeeds(self) -> None:
        device = self.make()
        with device.session():
            try:
                self.hold(device, 2 * BUDGET)
            except self.error:
                device.release()
            held = self.hold(device, BUDGET // 2)
            assert device.peak_bytes() <= BUDGET
            del held

    def test_a_session_can_be_entered_again(self) -> None:
        device = self.make()
        for _ in range(3):
            with device.session():
                held = self.hold(device, BUDGET // 2)
                assert self.live(device) >= BUDGET // 2
                with pytest.raises(self.error):
                    self.hold(device, BUDGET)
                del held
                self.free(device, BUDGET // 2)

    def test_an_error_leaves_the_session_ended(self) -> None:
        device = self.make()
        with pytest.raises(KeyError), device.session():
            raise KeyError
        with device.session():
            assert self.hold(device, MIB) is not None

    def test_outside_a_session_nothing_is_limited(self) -> None:
        if not self.limits_only_inside:
            pytest.skip("this device is limited by its capacity alone")
        device = self.make()
        with device.session():
            pass
        assert self.hold(device, 2 * BUDGET) is not None

    @pytest.mark.parametrize("error", [ValueError("out of memory"), KeyError("x"), RuntimeError()])
    def test_other_errors_are_not_taken_for_memory(self, error: BaseException) -> None:
        assert not self.make().is_out_of_memory(error)

    def free(self, device: Device, num_bytes: int) -> None:  # noqa: B027 - most need nothing
        """Give back what `hold` took, where that does not happen by itself."""
