"""Keys that people give: asking again with the same key for the same is asking once."""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.client.access import Client, fingerprint, new_run_id
from orchestrator.client.series import Order, bare, renamed
from orchestrator.errors import ConfigError, ConflictError
from orchestrator.types import RunId, RunSpec, Seconds

__all__ = ["keyed", "made_anew", "remove_needless"]

_LONGEST = 200


def keyed(orders: Sequence[Order], client: Client, key: str) -> tuple[Order, ...]:
    """Let a person's key decide which run each order is; each project has its own part of it.

    Raises:
        ConfigError: E1035, the key is empty or too long.
        ConflictError: E5009, the key was used for something else.
    """
    if not key.strip() or len(key) > _LONGEST or not key.isprintable():
        raise ConfigError(
            f"{key!r:.80} cannot be a key",
            code="E1035",
            fix=(f"1 to {_LONGEST} characters that can be printed, such as --key nightly-42",),
        )
    named = [_keyed(_in_series(order, key), client, _name(key, order)) for order in orders]
    known = {order.spec.run_id: order.run_id for order in named}
    return tuple(replace(order, spec=renamed(order.spec, known)) for order in named)


def _name(key: str, order: Order) -> str:
    part = order.spec.part
    return f"{key}/{order.spec.project}" + ("" if part is None else f"/{part.fold}.{part.stage}")


def _in_series(order: Order, key: str) -> Order:
    """Runs of a project that were asked for with another key are another series."""
    part = order.spec.part
    if part is None:
        return order
    series = f"{part.config}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return replace(order, spec=replace(order.spec, part=replace(part, series=series)))


def _keyed(order: Order, client: Client, key: str) -> Order:
    free = replace(order, key=key, continues=None, has_ended=False)
    if not client.is_there:
        return free
    with client.store() as store:
        answer = store.answer_to(key)
        before = None if answer is None else store.spec(answer)
    if before is None:
        return free
    if _asked(before) != _asked(order.spec):
        raise ConflictError(
            f"the key {key!r} was already used",
            code="E5009",
            why=(f"for run {answer}, which asks for something else",),
            fix=("ask again with another key, or with exactly what was asked before",),
        )
    return replace(free, continues=answer)


def _asked(spec: RunSpec) -> str:
    return fingerprint(bare(spec))


def made_anew(orders: Sequence[Order], at: Seconds) -> tuple[Order, ...]:
    """Make every order a run of its own, also where the same is under way already.

    Runs of a project with stages or folds become a series of their own. `at` is Unix time.
    """
    ids = {
        order.spec.run_id: new_run_id(at) if order.continues else order.spec.run_id
        for order in orders
        if order.spec.part is not None
    }
    series: dict[str, str] = {}
    made = []
    for order in orders:
        spec, part = order.spec, order.spec.part
        if part is not None:
            run_id = ids[spec.run_id]
            own = series.setdefault(part.series, f"{part.config}-{run_id}")
            folder = str(Path(spec.folder).with_name(run_id))
            spec = replace(spec, run_id=run_id, folder=folder, part=replace(part, series=own))
            spec = renamed(spec, ids)
        key = f"again {spec.run_id}"
        made.append(replace(order, spec=spec, key=key, continues=None, has_ended=False))
    return tuple(made)


def remove_needless(orders: Sequence[Order], answers: Sequence[RunId]) -> None:
    """Remove the folders of new runs that another asker was faster to ask for."""
    for order, answer in zip(orders, answers, strict=True):
        if order.continues is None and answer != order.spec.run_id:
            folder = Path(order.spec.folder)
            shutil.rmtree(folder, ignore_errors=True)
            link = folder.with_name("latest")
            with suppress(OSError):  # there is none, or a person put something else there
                if link.readlink().name == folder.name:
                    link.unlink()
                    link.symlink_to(answer)
