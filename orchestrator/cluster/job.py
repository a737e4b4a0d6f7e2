"""A job as it is asked for and as it is, and what its end means as an exit code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["JobState", "JobWish"]

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_LOST = 75  # the driver went with its node; its runs can go on (EX_TEMPFAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWish:
    """A job to be submitted.

    Attributes:
        submission_id: Its name; the same again is the same job.
        entrypoint: The shell command.
        folder: What is uploaded, all of it; the job's working folder.
        body: Hash of all that was asked for.
        variables: For its environment.
        metadata: To be kept with it.
        num_cpus: CPUs that its driver takes; None puts it on the head, uncounted.
    """

    submission_id: str
    entrypoint: str
    folder: Path
    body: str
    variables: Mapping[str, str]
    metadata: Mapping[str, str]
    num_cpus: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How a job is. `driver_code` is what its command returned, once it has."""

    submission_id: str
    status: str
    message: str = ""
    error: str = ""
    driver_code: int | None = None
    body: str | None = None

    @property
    def has_ended(self) -> bool:
        """True when nothing of it runs any more."""
        return self.status in _ENDED

    @property
    def exit_code(self) -> int:
        """What it means: of its command; 9 stopped; 75 its driver was lost; 6 it never began."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return 9
        if self.driver_code:
            return self.driver_code if self.driver_code > 0 else 128 - self.driver_code
        return _LOST if self.error == "JOB_SUPERVISOR_ACTOR_DIED" else 6
