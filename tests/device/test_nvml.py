"""The driver's view, through eight fake cards that misbehave in the ways real ones do."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

from orchestrator.device import driver, nvml
from orchestrator.device.driver import DriverError, GpuProcess
from orchestrator.errors import NoDeviceError

GIB = 1 << 30
OURS = 100
OTHER = 200


@dataclass
class FakeCard:
    name: str = "NVIDIA GeForce RTX 2060"
    total: int | None = 6 * GIB
    used: int | None = 0
    is_mig: bool = False
    processes: list[GpuProcess] = field(default_factory=list)
    fault: int | None = None


class FakeReader:
    """Answers as a driver with these cards would."""

    def __init__(self, cards: Sequence[FakeCard], fault: int | None = None) -> None:
        self.cards = cards
        self.fault = fault

    def at(self, index: int) -> FakeCard:
        card = self.cards[index]
        if card.fault is not None:
            raise DriverError(card.fault, "GPU is lost")
        return card

    def count(self) -> int:
        if self.fault is not None:
            raise DriverError(self.fault, str(pynvml.NVMLError(self.fault)))
        return len(self.cards)

    def name(self, index: int) -> str:
        return self.at(index).name

    def uuid(self, index: int) -> str:
        self.at(index)
        return f"GPU-{index:04d}-abcd"

    def is_mig(self, index: int) -> bool:
        return self.at(index).is_mig

    def memory(self, index: int) -> tuple[int | None, int | None]:
        return self.at(index).total, self.at(index).used

    def processes(self, index: int) -> Sequence[GpuProcess]:
        return self.at(index).processes


EIGHT = FakeReader(
    [
        FakeCard(),
        FakeCard(used=3 * GIB, processes=[GpuProcess(OURS, GIB), GpuProcess(OTHER, 2 * GIB)]),
        FakeCard(used=3 * GIB, processes=[GpuProcess(OURS, GIB), GpuProcess(OTHER, None)]),
        FakeCard(name="NVIDIA A100-SXM4-80GB", total=80 * GIB, is_mig=True),
        FakeCard(name="NVIDIA GB10", total=None, used=None),
        FakeCard(fault=pynvml.NVML_ERROR_GPU_IS_LOST),
        FakeCard(used=GIB),  # held by the driver itself: no process
        FakeCard(used=GIB, processes=[GpuProcess(OTHER, 2 * GIB)]),  # an answer between two moments
    ]
)


def survey(reader: FakeReader = EIGHT, **variables: str) -> Any:
    return nvml.survey(reader, ours={OURS}, environ=variables)


def test_cards_that_can_be_used_come_with_their_index_memory_and_uuid() -> None:
    cards, _ = survey()
    assert [card.index for card in cards] == [0, 1, 2, 6, 7]
    assert all(card.memory_bytes == 6 * GIB and not card.is_emulated for card in cards)
    assert len({card.uuid for card in cards}) == len(cards)


def test_foreign_bytes_are_those_of_processes_that_are_not_ours() -> None:
    cards, _ = survey()
    foreign = {card.index: card.foreign_bytes for card in cards}
    assert foreign == {0: 0, 1: 2 * GIB, 2: 2 * GIB, 6: 0, 7: GIB}


def test_refused_cards_come_with_reason_and_remedy() -> None:
    _, refused = survey()
    assert [card.index for card in refused] == [3, 4, 5]
    assert all(card.why and card.fix for card in refused)
    assert "MIG" in refused[0].why
    assert "-mig 0" in refused[0].fix
    assert "lost" in refused[2].why


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("1", [1]),
        ("2,0", [0, 2]),
        ("GPU-0001", [1]),
        ("GPU-0001-abcd, 6", [1, 6]),
        ("0,-1,2", [0]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_obeyed(visible: str, expected: list[int]) -> None:
    cards, _ = survey(CUDA_VISIBLE_DEVICES=visible)
    assert [card.index for card in cards] == expected


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_a_machine_without_a_driver_has_no_cards(code: int) -> None:
    assert survey(FakeReader([], fault=code)) == ((), ())
    assert nvml.cards(FakeReader([], fault=code)) == ()


def test_a_driver_that_does_not_match_its_library_is_an_error_with_the_remedy() -> None:
    reader = FakeReader([], fault=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(NoDeviceError) as caught:
        nvml.cards(reader)
    assert "mismatch" in str(caught.value).lower()
    assert caught.value.code.startswith("E2")
    assert any("restart" in line for line in caught.value.fix)


@pytest.mark.parametrize("card", [1, "GPU-0001-abcd"])
def test_the_memory_of_a_card_is_found_by_index_and_by_uuid(card: int | str) -> None:
    memory = nvml.card_memory(card, EIGHT, ours={OURS})
    assert (memory.total_bytes, memory.used_bytes) == (6 * GIB, 3 * GIB)
    assert memory.foreign_bytes == 2 * GIB
    assert memory.free_bytes == 3 * GIB


@pytest.mark.parametrize("card", [4, 5])
def test_memory_that_cannot_be_read_is_an_error(card: int) -> None:
    with pytest.raises(NoDeviceError) as caught:
        nvml.card_memory(card, EIGHT, ours=())
    assert caught.value.fix


def test_a_uuid_that_is_not_there_is_an_error() -> None:
    healthy = FakeReader([FakeCard()])
    with pytest.raises(NoDeviceError, match="no card has the UUID GPU-9"):
        nvml.card_memory("GPU-9", healthy, ours=())


def test_this_process_is_ours_and_its_parent_is_not() -> None:
    ours = nvml.own_processes()
    assert os.getpid() in ours
    assert os.getppid() not in ours


def test_this_machine_answers_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    cards = nvml.cards()
    assert all(card.memory_bytes > 0 for card in cards)
    assert capfd.readouterr() == ("", "")


@dataclass
class Info:
    total: Any = 6 * GIB
    used: Any = GIB


@dataclass
class Proc:
    pid: int
    usedGpuMemory: Any  # noqa: N815 - NVML's own spelling


def answer(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> driver.NvmlReader:
    """A reader on top of NVML functions that answer as given."""
    known: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
    }
    for name, function in (known | functions).items():
        monkeypatch.setattr(pynvml, name, function)
    return driver.NvmlReader()


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise pynvml.NVMLError(code)

    return fail


def test_the_reader_takes_bytes_for_text_and_not_available_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = (1 << 64) - 1
    reader = answer(
        monkeypatch,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetName=lambda _: b"Tesla T4",
        nvmlDeviceGetUUID=lambda _: "GPU-1",
        nvmlDeviceGetMemoryInfo=lambda _: Info(used=none),
        nvmlDeviceGetComputeRunningProcesses=lambda _: [Proc(1, None), Proc(2, 5), Proc(3, none)],
        nvmlDeviceGetGraphicsRunningProcesses=lambda _: [Proc(2, 5), Proc(4, 7)],
        nvmlDeviceGetMigMode=lambda _: (1, 1),
    )
    assert (reader.count(), reader.name(0), reader.uuid(0)) == (1, "Tesla T4", "GPU-1")
    assert reader.memory(0) == (6 * GIB, None)
    assert dict(reader.processes(0)) == {1: None, 2: 5, 3: None, 4: 7}
    assert reader.is_mig(0)


def test_the_reader_turns_not_supported_into_absence_and_other_faults_into_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsupported = failing(pynvml.NVML_ERROR_NOT_SUPPORTED)
    reader = answer(
        monkeypatch, nvmlDeviceGetMigMode=unsupported, nvmlDeviceGetMemoryInfo=unsupported
    )
    assert not reader.is_mig(0)
    assert reader.memory(0) == (None, None)
    lost = failing(pynvml.NVML_ERROR_GPU_IS_LOST)
    reader = answer(monkeypatch, nvmlDeviceGetMigMode=lost, nvmlDeviceGetMemoryInfo=lost)
    for ask in (reader.is_mig, reader.memory):
        with pytest.raises(DriverError) as caught:
            ask(0)
        assert caught.value.code == pynvml.NVML_ERROR_GPU_IS_LOST
