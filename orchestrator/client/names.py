"""Names of things: the store's folder, ids that can be read aloud, and what makes askings equal."""

import dataclasses
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.types import RunId, RunSpec, Seconds

__all__ = ["default_home", "find_run", "fingerprint", "new_run_id", "scratch_root"]

_ADJECTIVES = (
    "amber bold brave brisk bright calm clear cool crisp deep eager early fair fine free fresh"
    " gentle glad golden grand green happy keen kind light lively lucky mellow mild neat noble"
    " polite proud quick quiet rapid ready sharp silver smooth snowy solid steady still stout"
    " sunny swift tidy warm wise"
)
_NOUNS = (
    "badger beaver bison crane deer dolphin eagle elk falcon ferret finch fox gecko goose hare"
    " hawk heron ibex jay koala lark lemur lion lynx marten mole moose newt otter owl panda"
    " pigeon puffin quail raven robin salmon seal shrew sparrow squid stork swan tiger trout"
    " turtle viper walrus wolf wren yak zebra"
)


def default_home() -> Path:
    """The folder of the store: `ORC_HOME`, else the user's data folder of the platform."""
    if named := os.environ.get("ORC_HOME"):
        return Path(named)
    import platformdirs

    return platformdirs.user_data_path("orchestrator")


def scratch_root() -> Path:
    """Where a node keeps what its attempts have not put up yet: `ORC_SCRATCH`, else in the home.

    The host's name is in it, because nodes may share a home.
    """
    named = os.environ.get("ORC_SCRATCH")
    return (Path(named) if named else default_home() / "scratch") / socket.gethostname()


def new_run_id(at: Seconds) -> RunId:
    """A run id that sorts by time and can be read aloud: `20261121-041930-calm-otter-1f3a`."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M%S")
    words = f"{secrets.choice(_ADJECTIVES.split())}-{secrets.choice(_NOUNS.split())}"
    return RunId(f"{stamp}-{words}-{secrets.token_hex(2)}")


def fingerprint(spec: RunSpec) -> str:
    """SHA-256 of all that was asked for (plans may differ) and the folder above its own; no id.

    Fields that have their defaults are left out, so that it outlives fields that are added.
    """
    if spec.asked:
        return spec.asked
    bare = dataclasses.replace(spec, run_id=RunId(""), folder=str(Path(spec.folder).parent))
    text = json.dumps(_said(bare), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _said(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return dict(value) if isinstance(value, Mapping) else value
    own = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        field.name: _said(own[field.name])
        for field in dataclasses.fields(value)
        if own[field.name] != _default(field)
    }


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def find_run(text: str, projects: Mapping[RunId, str], where: str) -> RunId:
    """The full id that `text` means: an id or enough of it, `last`, or a project's newest run.

    Args:
        text: What a person wrote.
        projects: Every run's project.
        where: What the store is called in messages.

    Raises:
        NotFoundError: E5020, no such run.
        ConfigError: E1031, several runs have it; they are listed.
    """
    ids = sorted(projects)
    if text in projects:
        return RunId(text)
    if newest := [i for i in ids if text in ("last", projects[i])]:
        return newest[-1]
    found = [i for i in ids if text and i.startswith(text)]
    found = found or [i for i in ids if text and text in i]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{len(found)} runs are meant by {text!r:.80}",
            code="E1031",
            why=tuple(found[:10]),
            fix=("give more of the id",),
        )
    raise NotFoundError(
        f"there is no run {text!r:.80}",
        code="E5020",
        why=(f"{len(ids)} runs in {where}",),
        fix=("orc ls shows every run; --home or ORC_HOME chooses another store",),
    )
