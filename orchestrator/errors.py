"""One exception tree, drawn here; every error carries code, why, fix and an exit code.

OrchestratorError
 +- ConfigError        E1xxx  exit 2   the config or the command line is wrong
 |   +- DataError      E3xxx  exit 2   the data set, a picture or a weights file is wrong
 +- PlanError          E2xxx  exit 5   no card of the cluster can ever hold the run
 +- NoDeviceError      E2xxx  exit 4   there is no GPU and nothing else was asked for
 +- TrainingError      E2xxx  exit 1   an attempt failed, with its Cause
 +- ClusterError       E4xxx  exit 6   Ray cannot be reached or refused
 +- StoreError         E5xxx  exit 1   the store or the disk failed
 |   +- ConflictError  E5xxx  exit 2   a key was used for something else
 |   +- StorageError   E505x  exit 1   the object store that runs are kept in failed
 +- NotFoundError      E5xxx  exit 3   no such run or file
 +- TransitionError    E9xxx  exit 1   a bug in orchestrator: an event that fits no row
"""

from collections.abc import Sequence

from orchestrator.types import Cause

__all__ = [
    "ClusterError",
    "ConfigError",
    "ConflictError",
    "DataError",
    "NoDeviceError",
    "NotFoundError",
    "OrchestratorError",
    "PlanError",
    "StorageError",
    "StoreError",
    "TrainingError",
    "TransitionError",
]


class OrchestratorError(Exception):
    """What happened (first line), why (numbers with units), and what to do about it."""

    exit_code = 1

    def __init__(
        self, what: str, *, code: str, why: Sequence[str] = (), fix: Sequence[str] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.why = tuple(why)
        self.fix = tuple(fix)

    def __str__(self) -> str:
        return self.what

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling between processes by default.
        return (_rebuild, (type(self), self.__dict__.copy()))


class ConfigError(OrchestratorError):
    """The config or the command line is wrong; nothing was started."""

    exit_code = 2


class DataError(ConfigError):
    """The data set, a picture or a weights file is not what the config says."""


class PlanError(OrchestratorError):
    """No card of the cluster can ever hold the run; nothing was started."""

    exit_code = 5


class NoDeviceError(OrchestratorError):
    """There is no GPU, and neither `device: cpu` nor emulated cards were asked for."""

    exit_code = 4


class TrainingError(OrchestratorError):
    """An attempt failed for a cause that can be named."""

    def __init__(
        self,
        what: str,
        *,
        cause: Cause,
        code: str,
        why: Sequence[str] = (),
        fix: Sequence[str] = (),
    ) -> None:
        super().__init__(what, code=code, why=why, fix=fix)
        self.cause = cause


class ClusterError(OrchestratorError):
    """Ray cannot be reached, or refused."""

    exit_code = 6


class StoreError(OrchestratorError):
    """The store or the disk failed; what was acknowledged before is safe."""


class ConflictError(StoreError):
    """The same key was used for something else; nothing was changed."""

    exit_code = 2


class StorageError(StoreError):
    """The object store that runs are kept in cannot be reached, or refuses."""


class NotFoundError(OrchestratorError):
    """There is no such run, project or file."""

    exit_code = 3


class TransitionError(OrchestratorError):
    """An event that fits no row of the transition table: a bug in orchestrator, and loud."""

    def __init__(self, what: str, *, why: Sequence[str] = ()) -> None:
        super().__init__(
            what, code="E9001", why=why, fix=("please report it with the lines above",)
        )


def _rebuild(kind: type[OrchestratorError], state: dict[str, object]) -> OrchestratorError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["what"])
    error.__dict__.update(state)
    return error
