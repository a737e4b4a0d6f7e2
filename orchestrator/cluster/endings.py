"""How an attempt ended: exceptions of the training, and deaths of workers, as causes."""

import errno
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import (
    DataError,
    OrchestratorError,
    StorageError,
    StoreError,
    TrainingError,
)
from orchestrator.messages import Event, GangFailed, GangFinished, GangYielded
from orchestrator.types import AttemptId, Cause, Metrics, Outcome, Seconds

__all__ = ["LOST_CONTACT", "Ending", "ending_event", "failure", "failure_of", "told_by_ray"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Texts of torch.AcceleratorError (torch 2.11 and later; a RuntimeError before), of cuDNN, cuBLAS
# and NVML that no retry of the same process can survive.
_DEVICE_FAULTS = (
    "illegal memory access",
    "illegal instruction",
    "unspecified launch failure",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "device is lost",
    "gpu is lost",
    "gpu has fallen off the bus",
    "hardware stack error",
    "hardware error",
    "misaligned address",
    "devices busy or unavailable",
    "device(s) is/are busy or unavailable",
    "cuda error: unknown error",
    "xid",
    "nvml",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "cublas_status_execution_failed",
    "cublas_status_not_initialized",
)
# What the card itself says of a mistake: an index out of range fails an assertion in a kernel, and
# a torch that was built without the card's architecture has no kernel at all.
_NO_KERNELS = ("no kernel image is available", "invalid device function")
_MISTAKES = ("device-side assert", *_NO_KERNELS, "error: invalid")
# How torch, gloo and NCCL tell that another rank is gone, or did not come in time. Which one, and
# why, is told by that rank's own end.
_CONTACT_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")
_CONTACT_TEXTS = ("gloo/transport", "connection closed by peer", "connection reset by peer")
_MAX_DETAIL = 400  # characters of Ray's own explanation
_TAIL_FRAMES = 4  # of the traceback, told to people; the log holds all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a worker says when `fit` is over. `cause` is None for an end without a fault."""

    outcome: Outcome = Outcome.FINISHED
    metrics: Metrics = field(default_factory=dict)
    cause: Cause | None = None
    detail: str = ""
    code: str = ""
    is_clean: bool = False  # another run of its kind may follow in the process


def ending_event(attempt: AttemptId, ending: Ending, at: Seconds) -> Event:
    """The one event with which an attempt ends."""
    if ending.cause is not None:
        return GangFailed(
            at=at, attempt=attempt, cause=ending.cause, detail=ending.detail, code=ending.code
        )
    if ending.outcome is Outcome.YIELDED:
        return GangYielded(at=at, attempt=attempt)
    return GangFinished(at=at, attempt=attempt, metrics=ending.metrics)


def failure(cause: Cause, detail: str, code: str = "") -> Ending:
    """The ending of an attempt whose worker could not say it itself."""
    return Ending(cause=cause, detail=detail, code=code or _CODES.get(cause, ""))


def failure_of(error: Exception, *, is_card_out_of_memory: bool) -> Ending:
    """The ending of an attempt whose training raised.

    Args:
        error: What `Trainer.fit`, or the building of its parts, raised.
        is_card_out_of_memory: What the device says of the error.
    """
    cause, code = _cause_and_code(error, is_card_out_of_memory=is_card_out_of_memory)
    if isinstance(error, OrchestratorError):
        lines = [error.what, *error.why, *(f"fix: {line}" for line in error.fix)]
    else:
        lines = [f"{type(error).__name__}: {error}{_where(error)}"]
        if code == _NO_KERNELS_CODE:
            lines.append(f"fix: {_NO_KERNELS_FIX}")
        elif cause is Cause.USER_ERROR:
            lines += _last_frames(error)
    return Ending(cause=cause, code=code, detail="\n".join(lines))


def told_by_ray(error: Exception) -> str:
    """The line of Ray's explanation of a death that tells why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("The actor is dead because")]
    return (telling or lines or [type(error).__name__])[0][:_MAX_DETAIL]


def _cause_and_code(error: Exception, *, is_card_out_of_memory: bool) -> tuple[Cause, str]:
    if isinstance(error, TrainingError):
        return error.cause, error.code
    if isinstance(error, DataError):
        return Cause.DATA_ERROR, error.code
    if isinstance(error, StorageError):
        return Cause.STORAGE_FAULT, error.code
    if isinstance(error, StoreError):
        return Cause.DISK_FULL, error.code
    if isinstance(error, OrchestratorError):
        return Cause.USER_ERROR, error.code
    cause = _foreign_cause(error, is_card_out_of_memory=is_card_out_of_memory)
    special = {Cause.WORKER_LOST: LOST_CONTACT}
    if _has_no_kernels(error):
        special[Cause.USER_ERROR] = _NO_KERNELS_CODE
    return cause, special.get(cause, _CODES[cause])


def _foreign_cause(error: Exception, *, is_card_out_of_memory: bool) -> Cause:
    if is_card_out_of_memory:
        return Cause.OUT_OF_MEMORY
    chain = tuple(_chain(error))
    if any(_is_contact_lost(link) for link in chain):
        return Cause.WORKER_LOST
    if any(isinstance(link, OSError) and link.errno in _NO_SPACE for link in chain):
        return Cause.DISK_FULL
    if any(isinstance(link, MemoryError) for link in chain):
        return Cause.HOST_OUT_OF_MEMORY
    if any(isinstance(link, RuntimeError) and _is_device_fault(link) for link in chain):
        return Cause.DEVICE_FAULT
    return Cause.USER_ERROR


def _is_contact_lost(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    if any(kind.__name__ in _CONTACT_ERRORS for kind in type(error).__mro__):
        return True  # torch is not imported to ask
    return any(words in str(error).lower() for words in _CONTACT_TEXTS)


def _is_device_fault(error: RuntimeError) -> bool:
    text = str(error).lower()
    if any(mistake in text for mistake in _MISTAKES):
        return False
    if any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__):
        return True  # whatever else the card says is of the card; torch is not imported to ask
    return any(re.search(rf"\b{re.escape(fault)}", text) for fault in _DEVICE_FAULTS)


def _has_no_kernels(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_KERNELS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _last_frames(error: Exception) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-_TAIL_FRAMES:]
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]


_CODES = {
    Cause.WORKER_LOST: "E4101",
    Cause.NODE_LOST: "E4102",
    Cause.START_FAILED: "E4103",
    Cause.KILLED: "E4104",
    Cause.USER_ERROR: "E4111",
    Cause.HOST_OUT_OF_MEMORY: "E4112",
    Cause.OUT_OF_MEMORY: "E4113",
    Cause.DISK_FULL: "E4115",
    Cause.STORAGE_FAULT: "E5051",
    Cause.DEVICE_FAULT: "E4116",
    Cause.HANG: "E4117",
}
_NO_KERNELS_CODE = "E4118"
LOST_CONTACT = "E4119"  # a rank says that others are gone; see `cluster.gang`
_NO_KERNELS_FIX = (
    "install a torch that was built for this card, or leave the card out with resources.gpu_type"
)
