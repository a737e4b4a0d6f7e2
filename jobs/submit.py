"""Puts every project of a config into the queue of a store: `orc submit`, `orc rerun`."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.client.submitting import submit_config
from orchestrator.config.load import load_config
from orchestrator.console import report
from orchestrator.console.follow import wait_for
from orchestrator.console.say import say
from orchestrator.errors import NotFoundError

__all__ = ["rerun", "submit"]


def submit(
    path: Path | None,
    words: Sequence[str],
    *,
    home: Path | None,
    as_json: bool,
    key: str | None = None,
    is_waiting: bool = False,
    is_anew: bool = False,
) -> int:
    """Plan the projects of a config and ask for their runs, all or none; returns the exit code.

    Args:
        path: The config file.
        words: `key=value` words over it.
        home: The folder of the store.
        as_json: How it is told.
        key: Asking again with the same key for the same is asking once.
        is_waiting: Follow the runs to their end.
        is_anew: Make new runs also where the same is under way already.

    Raises:
        ConfigError, DataError: The config or its data.
        PlanError: E2001, no card of the driver (or of this machine) can ever hold a run.
        ConflictError: E5009, the key was used for something else.
        StoreError: The store or the disk failed.
    """
    config = load_config(path, words)
    client = Client(home)
    done = submit_config(config, client, key=key, is_anew=is_anew, tell=report.prepared, say=say)
    driver = client.driver()
    report.submitted(done.ids, done.orders, driver, as_json=as_json, is_followed=is_waiting)
    if is_waiting:
        return wait_for(client, done.ids, as_json=as_json, driver=driver, patience=5.0)
    return 0


def rerun(
    run: str, words: Sequence[str], *, home: Path | None, as_json: bool, is_waiting: bool = False
) -> int:
    """Ask for a new run from the config of an earlier one, with changes; as `submit`.

    Raises:
        NotFoundError: E5020, no such run; E5021, its config is gone.
    """
    record = Client(home).show(run)
    path = Path(record.spec.folder) / "config.yaml"
    if not path.is_file():
        raise NotFoundError(
            f"the config of {record.run.id} is gone",
            code="E5021",
            why=(f"there is no {path}",),
            fix=("submit the config that it came from: orc submit CONFIG",),
        )
    return submit(path, words, home=home, as_json=as_json, is_waiting=is_waiting, is_anew=True)
