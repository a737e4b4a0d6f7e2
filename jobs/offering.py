"""What nodes the Ray that is joined may bring: by the config, or by the file it began with."""

from pathlib import Path

from orchestrator.config.load import Config
from orchestrator.console.say import say
from orchestrator.errors import ConfigError
from orchestrator.messages import NodeTypesOffered
from orchestrator.types import NodeType

__all__ = ["offered"]

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # where `ray up` puts its file on the head


def offered(shared: Config) -> NodeTypesOffered | None:
    """The node types that may be asked for; None where there are none.

    Raises:
        ConfigError: E1075, types are offered of no Ray, or twice; E1072 and E1073, the launcher's
            file cannot be used.
    """
    from orchestrator.cluster.launcher import read_launcher, types_in

    types, path = shared.node_types, shared.launcher
    if types and path is not None:
        raise _wrong("node types are given twice", "cluster.node_types or cluster.launcher")
    if (types or path is not None) and shared.address is None:
        raise _wrong("node types are given, and no Ray that could bring them", "address: auto")
    if path is not None:
        types = types_in(read_launcher(path), str(path))
    elif not types and shared.address is not None:
        types = _told_by_head()
    if not types:
        return None
    return NodeTypesOffered(
        at=0.0,
        node_types=types,
        spare_seconds=shared.node_wait,
        late_after_seconds=shared.node_late,
    )


def _told_by_head() -> tuple[NodeType, ...]:
    """The types in the file of the head that this runs on; none where it tells of none for us."""
    from orchestrator.cluster.launcher import read_launcher, types_in

    path = BOOTSTRAP.expanduser()
    if not path.exists():
        return ()
    try:
        types = types_in(read_launcher(path), str(path))
    except ConfigError as error:
        say(f"no nodes are asked for: {error.what}: {'; '.join(error.why)}")
        return ()
    say(f"nodes may be asked for, as {path} says: {', '.join(each.name for each in types)}")
    return types


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(what, code="E1075", fix=(fix,))
