"""The states, causes and reasons that a run can have: enumerations only."""

from enum import StrEnum

__all__ = [
    "TERMINAL",
    "Cause",
    "DeviceKind",
    "Outcome",
    "PendingReason",
    "RunState",
    "StopMode",
    "StopReason",
]


class RunState(StrEnum):
    """Where a run stands. The legal moves between states are the table in `schedule.runs`."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """True when nothing more happens to the run unless a person asks."""
        return self in TERMINAL

    @property
    def holds_gpus(self) -> bool:
        """True while the run's share of its cards may not be given to another run."""
        return self in (RunState.STARTING, RunState.RUNNING, RunState.STOPPING)


TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class StopReason(StrEnum):
    """Why a gang was asked to leave."""

    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"
    START_TIMEOUT = "START_TIMEOUT"
    YIELD_TIMEOUT = "YIELD_TIMEOUT"
    NODE_LOST = "NODE_LOST"
    MAX_DURATION = "MAX_DURATION"


class StopMode(StrEnum):
    """How soon a gang that was asked to leave must leave."""

    AFTER_EPOCH = "after_epoch"  # finish the epoch, save, leave
    AT_BATCH = "at_batch"  # keep the unfinished epoch where the trainer can, and leave
    ABANDON = "abandon"  # leave at the next batch boundary; nothing more is kept

    @property
    def urgency(self) -> int:
        """The larger, the sooner it is to leave."""
        return list(StopMode).index(self)


class Cause(StrEnum):
    """What the world reports when an attempt ends badly."""

    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    USER_ERROR = "USER_ERROR"
    DATA_ERROR = "DATA_ERROR"
    NAN_LOSS = "NAN_LOSS"
    DISK_FULL = "DISK_FULL"
    STORAGE_FAULT = "STORAGE_FAULT"  # the object store that runs are kept in
    DEVICE_FAULT = "DEVICE_FAULT"
    HOST_OUT_OF_MEMORY = "HOST_OUT_OF_MEMORY"
    WORKER_LOST = "WORKER_LOST"
    NODE_LOST = "NODE_LOST"
    START_FAILED = "START_FAILED"
    HANG = "HANG"  # no sign of life for far longer than its steps take
    KILLED = "KILLED"
    DRIVER_LOST = "DRIVER_LOST"
    DEPENDENCY_FAILED = "DEPENDENCY_FAILED"  # a run that had to succeed first did not

    @property
    def is_infrastructure(self) -> bool:
        """True when the fault is not the project's: it costs the project none of its retries."""
        return self not in (
            Cause.OUT_OF_MEMORY,
            Cause.USER_ERROR,
            Cause.DATA_ERROR,
            Cause.NAN_LOSS,
            Cause.DEPENDENCY_FAILED,
        )


class PendingReason(StrEnum):
    """Why a run waits. The first group needs a person, the second passes by itself."""

    HELD = "HELD"
    MISCONFIGURED = "MISCONFIGURED"
    NO_MATCHING_GPU = "NO_MATCHING_GPU"
    NO_MATCHING_LABELS = "NO_MATCHING_LABELS"
    EXCEEDS_CLUSTER = "EXCEEDS_CLUSTER"
    QUOTA = "QUOTA"
    WAITING_FOR_GPU = "WAITING_FOR_GPU"
    FRAGMENTED = "FRAGMENTED"
    EXCLUDED_BY_LABELS = "EXCLUDED_BY_LABELS"  # room is on nodes where it may not run
    WAITING_FOR_CPU_OR_RAM = "WAITING_FOR_CPU_OR_RAM"
    EXTERNAL_PROCESS = "EXTERNAL_PROCESS"
    SET_ASIDE = "SET_ASIDE"
    DISK_FULL = "DISK_FULL"
    WAITING_FOR_NODE = "WAITING_FOR_NODE"  # one that an autoscaler brings
    WAITING_FOR_RUNS = "WAITING_FOR_RUNS"
    WAITING_FOR_PREEMPTED = "WAITING_FOR_PREEMPTED"
    BACKOFF = "BACKOFF"
    NOT_EVALUATED = "NOT_EVALUATED"

    @property
    def needs_person(self) -> bool:
        """True when waiting alone can never help."""
        return self in (
            PendingReason.HELD,
            PendingReason.MISCONFIGURED,
            PendingReason.NO_MATCHING_GPU,
            PendingReason.NO_MATCHING_LABELS,
            PendingReason.EXCEEDS_CLUSTER,
        )


class DeviceKind(StrEnum):
    """What a run computes on. CPU is never chosen silently: the config has to say it."""

    GPU = "gpu"
    CPU = "cpu"


class Outcome(StrEnum):
    """How a trainer left its loop without a fault."""

    FINISHED = "finished"
    YIELDED = "yielded"
