"""What a training raises becomes a cause, a code and words for people."""

import errno

import pytest

from orchestrator.cluster.endings import Ending, ending_event, failure_of, told_by_ray
from orchestrator.errors import ConfigError, DataError, StorageError, StoreError, TrainingError
from orchestrator.messages import GangFailed, GangFinished, GangYielded
from orchestrator.types import AttemptId, Cause, Outcome, RunId

ATTEMPT = AttemptId(run_id=RunId("r"), number=2)


class AcceleratorError(RuntimeError):
    """Named as torch's own, which says everything about CUDA that is not out of memory."""


def caught(error: Exception) -> Exception:
    """The error with a traceback, as a worker catches it."""
    with pytest.raises(type(error)) as info:
        raise error
    return info.value


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("while training")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TrainingError("x", cause=Cause.NAN_LOSS, code="E2110"), Cause.NAN_LOSS),
        (DataError("x", code="E3001"), Cause.DATA_ERROR),
        (StoreError("x", code="E5004"), Cause.DISK_FULL),
        (StorageError("x", code="E5051"), Cause.STORAGE_FAULT),
        (ConfigError("x", code="E1001"), Cause.USER_ERROR),
        (OSError(errno.ENOSPC, "full"), Cause.DISK_FULL),
        (wrapped(OSError(errno.EDQUOT, "quota")), Cause.DISK_FULL),
        (OSError(errno.EACCES, "denied"), Cause.USER_ERROR),
        (MemoryError("x"), Cause.HOST_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access"), Cause.DEVICE_FAULT),
        (RuntimeError("CUDA error: device-side assert triggered"), Cause.USER_ERROR),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Cause.DEVICE_FAULT),
        (RuntimeError("CUDA error: unspecified launch failure"), Cause.DEVICE_FAULT),
        (RuntimeError("NVRM: Xid 79, GPU has fallen off the bus"), Cause.DEVICE_FAULT),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"), Cause.DEVICE_FAULT),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Cause.DEVICE_FAULT),
        (RuntimeError("CUDA error: no kernel image is available"), Cause.USER_ERROR),
        (RuntimeError("a tensor named maxid has the wrong shape"), Cause.USER_ERROR),
        (ValueError("unspecified launch failure"), Cause.USER_ERROR),
        (AcceleratorError("CUDA error: operation not permitted"), Cause.DEVICE_FAULT),
        (AcceleratorError("CUDA error: device-side assert triggered"), Cause.USER_ERROR),
        (AcceleratorError("CUDA error: invalid configuration argument"), Cause.USER_ERROR),
        (ValueError("x"), Cause.USER_ERROR),
    ],
)
def test_every_error_has_its_cause(error: Exception, cause: Cause) -> None:
    ending = failure_of(caught(error), is_card_out_of_memory=False)
    assert ending.cause is cause
    assert ending.code.startswith("E")


def test_a_card_without_kernels_is_told_with_its_remedy_and_a_code_of_its_own() -> None:
    text = "CUDA error: no kernel image is available for execution on the device"
    ending = failure_of(caught(RuntimeError(text)), is_card_out_of_memory=False)
    assert (ending.cause, ending.code) == (Cause.USER_ERROR, "E4118")
    assert "resources.gpu_type" in ending.detail


def test_the_device_decides_what_is_out_of_memory_but_a_named_cause_stands() -> None:
    plain = failure_of(caught(RuntimeError("x")), is_card_out_of_memory=True)
    assert plain.cause is Cause.OUT_OF_MEMORY
    named = TrainingError("x", cause=Cause.NAN_LOSS, code="E2110")
    assert failure_of(named, is_card_out_of_memory=True).cause is Cause.NAN_LOSS


def test_a_mistake_names_its_line_and_an_error_of_ours_its_remedy() -> None:
    mistake = failure_of(caught(ValueError("lr0 is negative")), is_card_out_of_memory=False)
    assert "ValueError: lr0 is negative (test_endings.py:" in mistake.detail
    ours = DataError("no pictures", code="E3001", why=("0 files",), fix=("add some",))
    told = failure_of(ours, is_card_out_of_memory=False)
    assert told.detail == "no pictures\n0 files\nfix: add some"


def test_an_attempt_ends_with_the_event_of_its_ending() -> None:
    finished = ending_event(ATTEMPT, Ending(metrics={"score": 1.0}), 5.0)
    assert finished == GangFinished(at=5.0, attempt=ATTEMPT, metrics={"score": 1.0})
    yielded = ending_event(ATTEMPT, Ending(outcome=Outcome.YIELDED), 5.0)
    assert yielded == GangYielded(at=5.0, attempt=ATTEMPT)
    failed = ending_event(ATTEMPT, Ending(cause=Cause.KILLED, detail="d", code="c"), 5.0)
    assert failed == GangFailed(at=5.0, attempt=ATTEMPT, cause=Cause.KILLED, detail="d", code="c")


def test_of_what_ray_says_the_reason_is_kept() -> None:
    long = "The actor died.\n\tclass_name: A\nThe actor is dead because its process " + "x" * 999
    assert told_by_ray(Exception(long)).startswith("The actor is dead because its process x")
    assert len(told_by_ray(Exception(long))) == 400
    assert told_by_ray(Exception("")) == "Exception"
