"""What if: the same runs on the same cluster under several policies, each simulated to its end."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.cluster.script import Faults, Script, events, nodes
from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_gang import Luck, option
from orchestrator.cluster.sim_pace import MEASURED_AFTER, Physics
from orchestrator.driver import drive
from orchestrator.errors import PlanError
from orchestrator.messages import Event, NodeJoined, RunSubmitted, StartGang
from orchestrator.simulation.clusters import Site, could_hold
from orchestrator.simulation.figures import Alone, Figures, figures
from orchestrator.simulation.jobs import Job, submissions
from orchestrator.simulation.policies import NamedPolicy
from orchestrator.simulation.tally import Tally
from orchestrator.types import NodeId, RunId, RunSpec, Seconds

__all__ = ["Case", "case_of_jobs", "case_of_script", "demand_room", "play"]

EPOCH_SECONDS: Seconds = 60.0  # of a run that does not say, in the simulated cluster
SCATTER = 0.1  # of the epochs of a job, relative: evenly between 1 - and 1 + it


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is the same under every policy: the cluster, what happens by itself, and the luck."""

    site: Site
    happenings: tuple[Event, ...]
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    scatter: float = 0.0

    @property
    def physics(self) -> Physics:
        """How long things take."""
        speeds = {group.gpu: group.speed for group in self.site.groups}
        epochs = _Epochs(self, speeds) if self.scatter else None
        return Physics(speeds=speeds, epoch_seconds=epochs, measured_after=MEASURED_AFTER)


@dataclass(slots=True)
class _Epochs:
    """Seconds of epochs that are not all alike: the same for a run under every policy."""

    case: Case
    speeds: Mapping[str, float]
    _luck: Luck = field(init=False)
    _on_node: dict[NodeId, float] = field(init=False)

    def __post_init__(self) -> None:
        self._luck = Luck(self.case.faults, self.case.seed)
        self._on_node = {
            node.node_id: min(self.speeds[card.name] for card in node.cards)
            for node in nodes(self.case.site.groups)
            if node.cards
        }

    def __call__(self, start: StartGang, epoch: int) -> Seconds:
        scatter = self.case.scatter
        factor = self._luck.between(
            start.spec.run_id, f"epoch/{epoch}", (1.0 - scatter, 1.0 + scatter)
        )
        speed = min(self._on_node[share.node_id] for share in start.placement.shares)
        return option(start, "epoch_seconds", EPOCH_SECONDS) * factor / speed


def case_of_jobs(jobs: Sequence[Job], site: Site, *, seed: int = 0) -> Case:
    """Jobs on a cluster where nothing fails; their epochs scatter a little."""
    joined = [NodeJoined(at=0.0, node=node) for node in nodes(site.groups)]
    return Case(site=site, happenings=(*joined, *submissions(jobs)), seed=seed, scatter=SCATTER)


def case_of_script(script: Script) -> Case:
    """A whole script, with its faults."""
    return Case(
        site=Site(groups=script.nodes, source="the script"),
        happenings=events(script),
        seed=script.seed,
        faults=script.faults,
    )


def demand_room(case: Case) -> None:
    """Refuse a case in which a run can never start: a simulation of it would not end.

    Raises:
        PlanError: E2105, the empty cluster is too small for some runs.
    """
    specs = [event.spec for event in case.happenings if isinstance(event, RunSubmitted)]
    never = [
        spec
        for spec in specs
        if not could_hold(case.site, spec.num_gpus, (spec.memory_bytes or 0) / 2**30)
    ]
    if never:
        raise PlanError(
            f"{len(never):,} of {len(specs):,} runs can never start on this cluster",
            code="E2105",
            why=(f"{never[0].run_id} asks for {never[0].num_gpus} GPUs",
                 f"the cluster has {case.site.num_gpus:,}"),
            fix=("a larger cluster, or smaller gangs in the script",),
        )  # fmt: skip


def play(
    case: Case, policy: NamedPolicy, *, observe: Callable[[Event], None] | None = None
) -> tuple[Figures, int]:
    """Simulate a policy to the end of every run.

    Args:
        case: What happens.
        policy: Who decides.
        observe: Called with every event, for progress.

    Returns:
        What came of it, and the number of events.

    Raises:
        ClusterError: E4101, the simulation stands still: a run can never start.
    """
    happenings = [_seen(event, policy) for event in case.happenings]
    joined = [event.node for event in happenings if isinstance(event, NodeJoined)]
    names = {(node.node_id, card.index): card.name for node in joined for card in node.cards}
    cluster = SimCluster(happenings, faults=case.faults, seed=case.seed, physics=case.physics)
    scheduler, tally = policy.scheduler(), Tally(names)
    was_enabled = gc.isenabled()
    gc.disable()  # records only grow: searching them for rubbish takes a fifth of the time
    try:
        num_events = drive(
            scheduler,
            cluster,
            tally,
            cluster,
            observe=observe,
            keep_alive=lambda: cluster.num_arrivals > 0,
        )
    finally:
        if was_enabled:
            gc.enable()
    found = figures(policy.name, case.site, tally, _alone(case), scheduler.score)
    return found, num_events


def _seen(event: Event, policy: NamedPolicy) -> Event:
    if isinstance(event, RunSubmitted):
        return replace(event, spec=policy.spec(event.spec))
    return event


def _alone(case: Case) -> dict[RunId, Alone]:
    """Each run on the cards that it asks for, on an empty cluster of the mean speed."""
    start = sum(case.physics.start_seconds) / 2
    found: dict[RunId, Alone] = {}
    for event in case.happenings:
        if isinstance(event, RunSubmitted):
            spec = event.spec
            seconds = start + _train_seconds(spec) / case.site.mean_speed
            found[spec.run_id] = Alone(seconds=seconds, num_gpus=spec.num_gpus, queue=spec.queue)
    return found


def _train_seconds(spec: RunSpec) -> Seconds:
    epoch = spec.settings.options.get("epoch_seconds", EPOCH_SECONDS)
    assert isinstance(epoch, int | float), f"epoch_seconds is {epoch!r}"
    return spec.settings.epochs * epoch
