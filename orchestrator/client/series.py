"""Projects of several runs: stages one after the other, folds side by side, each run asked once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from orchestrator.client.access import Client, fingerprint, new_run_id
from orchestrator.client.fitting import Fitted
from orchestrator.config.load import Config, Project
from orchestrator.types import Part, RunId, RunSpec, RunState

__all__ = ["Order", "bare", "part_orders", "projects_of", "renamed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One project on its way to being a run. `continues` names the run that it is already.

    `data` is the whole data set where the run is one of a series, which may train on a fold of it.
    """

    spec: RunSpec
    project: Project
    key: str
    continues: RunId | None = None
    has_ended: bool = False  # it is a run of a series that goes on without it
    fitted: Fitted | None = None
    data: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def run_id(self) -> RunId:
        """The run that this order ends in."""
        return self.continues or self.spec.run_id


def projects_of(config: Config) -> Iterator[tuple[Project, ...]]:
    """The projects of a config, each with all its stages."""
    for _, stages in groupby(config.projects, key=lambda project: project.name):
        yield tuple(stages)


def bare(spec: RunSpec) -> RunSpec:
    """A run without what ties it to others: equal for equal trainings."""
    return replace(spec, after=(), weights_from=None, part=None)


def renamed(spec: RunSpec, names: Mapping[RunId, RunId]) -> RunSpec:
    """A run tied to the same others under their other names; those without one keep theirs."""
    source = spec.weights_from
    return replace(
        spec,
        after=tuple(names.get(run_id, run_id) for run_id in spec.after),
        weights_from=None if source is None else names.get(source, source),
    )


def part_orders(
    stages: Sequence[Project],
    config: Config,
    client: Client,
    at: float,
    data: Callable[[Project], str | None],
) -> tuple[Order, ...]:
    """All runs of a project with stages or folds, in an order in which they may be asked for.

    A series that is under way goes on: its runs stay as they are, and what was never asked for is
    asked for. Once all its runs have ended, the same config begins a new series.

    Args:
        stages: The project, stage by stage.
        config: Says where runs lie.
        client: The store.
        at: Unix time.
        data: Finds or makes the whole data set of a project; None where it is as it stands.

    Raises:
        DataError, ConfigError: As `folds.fold_data`.
        StoreError: The store failed.
    """
    first = stages[0]
    whole = [stage.spec(RunId(""), Path(), data(stage)) for stage in stages]
    above = config.runs / first.name
    folds, identity, remarks = 0, "", tuple[str, ...]()
    sets: tuple[str, ...] = (whole[0].settings.data,)
    if first.folds is not None:
        from orchestrator.client.folds import fold_data  # reads pictures, which takes numpy

        split = fold_data(whole[0], first.folds, above / "folds")
        folds, sets, remarks = first.folds.k, split.data, split.remarks
        identity = split.identity
    asked = [fingerprint(replace(spec, folder=str(above / "run"))) for spec in whole]
    made_of = json.dumps([asked, identity, [str(stage.stage) for stage in stages]])
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    series, known = _under_way(client, first.name, digest, max(1, folds) * len(stages))
    orders: list[Order] = []
    for fold, own in enumerate(sets, 1):
        before: RunId | None = None
        for stage, spec in zip(stages, whole, strict=True):
            part = _part(series, digest, fold if folds else 0, folds, stage)
            run_id, state = known.get((part.fold, part.stage), (None, None))
            order = Order(
                spec=_tied(spec, run_id or new_run_id(at), above, own, before, part),
                project=stage,
                key=f"{first.name}:{series}:{part.fold}:{part.stage}",
                data=spec.settings.data,
                continues=run_id,
                has_ended=state is not None and state.is_terminal,
                remarks=() if orders else remarks,
            )
            orders.append(order)
            before = order.spec.run_id
    return tuple(orders)


def _tied(
    spec: RunSpec, run_id: RunId, above: Path, data: str, before: RunId | None, part: Part
) -> RunSpec:
    """A run of the series, after the one before it and from its weights."""
    return replace(
        spec,
        run_id=run_id,
        folder=str((above / run_id).resolve()),
        settings=replace(spec.settings, data=data),
        after=() if before is None else (before,),
        weights_from=before,
        part=part,
    )


def _part(series: str, digest: str, fold: int, folds: int, project: Project) -> Part:
    stage = project.stage
    return Part(
        series=series,
        config=digest,
        fold=fold,
        num_folds=folds,
        stage=stage.number if stage else 0,
        num_stages=stage.count if stage else 0,
        stage_name=stage.name if stage else "",
    )


def _under_way(
    client: Client, project: str, digest: str, num_runs: int
) -> tuple[str, dict[tuple[int, int], tuple[RunId, RunState]]]:
    """The series of a config that has not ended, or the next one; and its runs, by their part."""
    found: dict[str, dict[tuple[int, int], tuple[RunId, RunState]]] = {}
    for part, run_id, state in _runs(client, project):
        if part.config == digest:
            found.setdefault(part.series, {})[part.fold, part.stage] = run_id, state
    for series, runs in found.items():
        if len(runs) < num_runs or not all(state.is_terminal for _, state in runs.values()):
            return series, runs
    return f"{digest}-{len(found)}", {}


def _runs(client: Client, project: str) -> Iterator[tuple[Part, RunId, RunState]]:
    for run in client.runs(project):
        if run.part is not None:
            yield run.part, RunId(run.id), run.state
