"""What a config is once it is read: frozen values that the rest of the product works with."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.plan.budget import Headroom
from orchestrator.plan.choose import Ladder
from orchestrator.types import NodeType, QueueRule, RunId, RunSpec, Seconds

__all__ = ["Config", "Fitting", "Folds", "Project", "Setting", "Stage"]

MADE = "made:"  # prefix of a data set that is made on the spot


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One resolved value and where it came from (`a.yaml:7`, `command line`, `default`)."""

    path: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a project is made to fit: whether it is predicted, what stays free, what may be cut.

    With `is_cpus_auto` the CPUs of its loading processes are counted, as many as nodes have.
    """

    is_predicted: bool = True
    headroom: Headroom = field(default_factory=Headroom)
    ladder: Ladder = field(default_factory=Ladder)
    is_cpus_auto: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Which stage of a project, counted from 1."""

    number: int
    count: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """How the data is split into `k` folds. `by` is a regular expression, or the path of a .csv."""

    k: int
    by: str | None = None
    seed: int = 0
    stratify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One training of a config, checked, but not yet a run: it has no id and no folder.

    A project with stages is one of these a stage, side by side. With folds it becomes a run for
    each. `where` is the place to name in messages; `resolved` is the block that reproduces it.
    """

    name: str
    template: RunSpec
    where: str
    resolved: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    fitting: Fitting = field(default_factory=Fitting)
    stage: Stage | None = None
    folds: Folds | None = None

    @property
    def label(self) -> str:
        """The name, with the stage if it is one: what tells it from others of the config."""
        stage = self.stage
        return (
            f"{self.name} stage {stage.number}/{stage.count} {stage.name}" if stage else self.name
        )

    @property
    def made(self) -> str | None:
        """Name of the data set to be made on the spot, when `data` asks for one."""
        data = self.template.settings.data
        return data.removeprefix(MADE) if data.startswith(MADE) else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the run; the same config gives the same text."""
        value = dataclasses.asdict(self.template)
        text = json.dumps(value, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def spec(self, run_id: RunId, folder: Path, data: str | None = None) -> RunSpec:
        """The run: this project with an id, its absolute folder, and the data if it was made."""
        settings = self.template.settings
        if data is not None:
            settings = dataclasses.replace(settings, data=data)
        return dataclasses.replace(
            self.template, run_id=run_id, folder=str(folder.resolve()), settings=settings
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole config. `emulate` are card names as written; `runs` is absolute.

    Where `runs:` is an address it is `storage`: nodes keep there what they write, and `runs` is
    the folder of what the driver writes for people.
    """

    source: str
    folder: Path
    runs: Path
    projects: tuple[Project, ...]
    emulate: tuple[str, ...] = ()
    address: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)  # of the node of a Ray of our own
    policy: str | None = None  # how a driver sizes and orders runs; None leaves it as it is
    queues: tuple[QueueRule, ...] = ()
    node_types: tuple[NodeType, ...] = ()  # that the Ray at `address` may bring
    launcher: Path | None = None  # the file for `ray up` that describes them instead
    node_wait: Seconds = 120.0
    node_late: Seconds = 900.0
    settings: tuple[Setting, ...] = ()  # of the blocks that all projects share
    storage: str = ""

    @property
    def runs_as_written(self) -> str:
        """What `runs:` says in a config that means the same: an address, or an absolute path."""
        return self.storage or str(self.runs)

    @property
    def whole(self) -> tuple[Project, ...]:
        """Each project once: its first stage, whose `resolved` has all of them."""
        return tuple(p for p in self.projects if p.stage is None or p.stage.number == 1)
