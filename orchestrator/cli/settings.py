"""`orc config`: the resolved config with the origin of every value, its schema, a check."""

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.client.access import default_home
from orchestrator.config.check import check_files
from orchestrator.config.load import Config, Setting, load_config, schema, user_config_path
from orchestrator.config.yaml import write_yaml
from orchestrator.console.say import columns, emit, emit_json, say

__all__ = ["print_paths", "print_schema", "show", "validate"]


def show(path: Path | None, words: Sequence[str], *, with_origin: bool, as_json: bool) -> None:
    """Print the config as it will be used: YAML that can be run again, or a row a value."""
    config = load_config(path, words)
    rows = _settings(config)
    if as_json:
        emit_json(
            config=_document(config),
            origins={row.path: row.origin for row in rows},
        )
    elif with_origin:
        body = ((row.path, json.dumps(row.value, default=str), row.origin) for row in rows)
        emit(columns(("KEY", "VALUE", "FROM"), body))
    else:
        emit(write_yaml(_document(config)).rstrip())


def _settings(config: Config) -> list[Setting]:
    """Every value of a config, the shared ones first."""
    return [*config.settings, *(row for project in config.projects for row in project.settings)]


def _document(config: Config) -> dict[str, object]:
    """The config file that says the same with every value written out."""
    cluster: dict[str, object] = {}
    if config.emulate:
        cluster["emulate"] = list(config.emulate)
    if config.address:
        cluster["address"] = config.address
    return {
        **({"cluster": cluster} if cluster else {}),
        "runs": config.runs_as_written,
        "projects": [dict(project.resolved) for project in config.whole],
    }


def print_schema() -> None:
    """Print the JSON schema of a config file."""
    emit(json.dumps(schema(), indent=2))


def validate(path: Path | None, words: Sequence[str], *, as_json: bool) -> None:
    """Check a config and every file it names; an error says what to change."""
    config = load_config(path, words)
    check_files(config.projects)
    names = [project.name for project in config.whole]
    if as_json:
        emit_json(valid=True, source=config.source, projects=names)
    else:
        say(f"{config.source} is valid: {len(names)} project(s): {', '.join(names)}")


def print_paths(*, as_json: bool) -> None:
    """Print where this command looks."""
    home = default_home()
    rows = {
        "user_config": str(user_config_path()),
        "project_config": str(Path("orchestrator.yaml").resolve()),
        "home": str(home),
        "store": str(home / "orchestrator.db"),
        "runs": str(Path("runs").resolve()),
    }
    if as_json:
        emit_json(paths=rows)
    else:
        emit(columns(("WHAT", "PATH"), rows.items()))
