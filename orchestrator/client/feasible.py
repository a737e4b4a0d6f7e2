"""Which cards there are, and whether they can ever hold the runs; asked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from orchestrator.client.access import Client
from orchestrator.client.coming import cards_to_come, types_to_come
from orchestrator.client.machine import check_space, cpu_count, ram_bytes
from orchestrator.client.storage import demand_storage
from orchestrator.config.check import check_files
from orchestrator.config.load import Config
from orchestrator.errors import NoDeviceError, PlanError
from orchestrator.messages import CancelRequested, NodeJoined, NodeTypesOffered, RunSubmitted
from orchestrator.types import (
    Card,
    DeviceKind,
    Node,
    NodeId,
    NodeType,
    PendingReason,
    RunId,
    RunSpec,
)

__all__ = [
    "MachineCards",
    "cards_for",
    "cards_of_driver",
    "check_feasible",
    "check_on",
    "check_unfinished",
    "machine_cards",
    "ready",
    "recorded_cards",
    "service_cards",
    "unfinished_specs",
]

MachineCards: TypeAlias = tuple[Card, ...] | None
"""Cards to train on; None for those of a Ray that runs already."""

_NEVER = (
    PendingReason.NO_MATCHING_GPU,
    PendingReason.NO_MATCHING_LABELS,
    PendingReason.EXCEEDS_CLUSTER,
)
_RAYS_OWN = "ray.io/"  # labels that Ray gives a node when it starts


def cards_for(specs: Sequence[RunSpec], emulate: Sequence[str]) -> tuple[Card, ...]:
    """The cards of this machine, or emulated ones where they are asked for.

    Raises:
        NoDeviceError: E2010, a run needs a GPU, there is none, and nothing else was asked for.
    """
    if emulate:
        from orchestrator.device.catalogue import emulated_cards

        return emulated_cards(emulate)
    if all(spec.device is DeviceKind.CPU for spec in specs):
        return ()
    from orchestrator.device.nvml import survey

    cards, refused = survey()
    if cards:
        return cards
    names = sorted({spec.project for spec in specs if spec.device is DeviceKind.GPU})
    raise NoDeviceError(
        "there is no GPU that can be used here",
        code="E2010",
        why=(
            f"asked for by {', '.join(names[:5])}",
            *(f"GPU {card.index} {card.name}: {card.why}" for card in refused),
        ),
        fix=(
            "train on the CPU: device=cpu",
            'or emulate cards on the CPU: --emulate-gpus "RTX 2060 6GB"',
            *(card.fix for card in refused),
        ),
    )


def ready(config: Config, client: Client, *, to_driver: bool = False) -> MachineCards:
    """Refuse what can be refused before anything starts; returns the cards to train on.

    Args:
        config: What is to be trained.
        client: Of the store.
        to_driver: Whether a driver that holds the store already may get the work.

    Raises:
        ConfigError, NoDeviceError, PlanError: As `machine_cards`.
        DataError: A data set is not what its trainer needs.
        StoreError: The disk is nearly full, or a driver holds the store.
        ConfigError, StoreError: As `storage.demand_storage`.
    """
    templates = [project.template for project in config.projects]
    has_driver = to_driver and client.driver() is not None
    cards = (
        cards_of_driver(templates, config, client)
        if has_driver
        else machine_cards(templates, config)
    )
    check_files(config.projects)
    check_space(config.runs)
    demand_storage(config.storage)
    if not to_driver:
        client.demand_no_driver()
    return cards


def machine_cards(
    specs: Sequence[RunSpec], shared: Config, *, last: Client | None = None
) -> MachineCards:
    """The cards to train on, checked against the runs; None for a Ray that runs already.

    Args:
        specs: The runs; they need no ids yet.
        shared: Says whether cards are emulated, or a Ray is joined.
        last: A store whose last driver's emulated cards are taken where nothing else is said.

    Raises:
        ConfigError, NoDeviceError, PlanError: As `cards_for` and `check_feasible`.
    """
    if shared.address is not None:
        return None
    cards = recorded_cards(last) if last and not shared.emulate else ()
    cards = cards or cards_for(specs, shared.emulate)
    check_feasible(specs, cards, shared.labels)
    return cards


def check_feasible(
    specs: Sequence[RunSpec], cards: Sequence[Card], labels: Mapping[str, str] | None = None
) -> None:
    """Ask the scheduler whether this machine could ever run each of the specs.

    Args:
        specs: The runs. What they ask of labels that Ray gives nodes by itself is not looked at,
            as there is no Ray yet.
        cards: Of this machine.
        labels: That its node will have.

    Raises:
        PlanError: E2001, no card can ever hold a run; says what it asks and what there is; E2004,
            the node has other labels.
    """
    node = Node(
        node_id=NodeId("this-machine"),
        cards=tuple(cards),
        num_cpus=cpu_count(),
        host_bytes=ram_bytes(),
        labels=labels or {},
    )
    check_on([_without_rays_own(spec) for spec in specs], [node])


def check_on(
    specs: Sequence[RunSpec], nodes: Sequence[Node], types: Sequence[NodeType] = ()
) -> None:
    """Ask the scheduler whether these nodes, or such as may come, could ever run each of the specs.

    Raises:
        PlanError: E2001, no card can ever hold a run; says what it asks and what there is; E2004,
            no node has the labels that it asks for, and none that may come.
    """
    from orchestrator.schedule.scheduler import Scheduler

    scheduler = Scheduler()
    for node in nodes:
        scheduler.handle(NodeJoined(at=0.0, node=node))
    scheduler.handle(NodeTypesOffered(at=0.0, node_types=tuple(types)))
    for number, spec in enumerate(specs):
        run_id = RunId(f"check-{number}")
        scheduler.handle(RunSubmitted(at=0.0, spec=_alone(spec, run_id)))
        found = scheduler.explain(run_id, 0.0)
        if found.reason in _NEVER:
            raise PlanError(
                f"project {spec.project} can never run here: {found.summary}",
                code="E2004" if found.reason is PendingReason.NO_MATCHING_LABELS else "E2001",
                why=(f"asks {found.asks}", *(f"there is {line}" for line in found.available)),
                fix=found.remedies,
            )


def check_unfinished(
    client: Client, cards: Sequence[Card], labels: Mapping[str, str] | None = None
) -> None:
    """Refuse to start beside unfinished runs that this machine could never run: it would wait.

    Raises:
        PlanError: E2002, names the run, and how to give it cards or end it.
    """
    for spec in unfinished_specs(client):
        try:
            check_feasible([spec], cards, labels)
        except PlanError as error:
            raise PlanError(
                f"the unfinished run {spec.run_id} can never run here: {error.what}",
                code="E2002",
                why=error.why,
                fix=(*error.fix, f"or end it: orc stop {spec.run_id}"),
            ) from error


def unfinished_specs(client: Client) -> tuple[RunSpec, ...]:
    """Every run that a driver would take up, less those that a person has asked to stop."""
    if not client.is_there:
        return ()
    with client.store() as store:
        waiting = store.waiting()
        stopped = {event.run_id for event in waiting if isinstance(event, CancelRequested)}
        known = [s.run_id for s in store.statuses() if not s.state.is_terminal]
        asked = [event.spec for event in waiting if isinstance(event, RunSubmitted)]
        specs = [*(store.spec(run_id) for run_id in known), *asked]
    return tuple(spec for spec in specs if spec.run_id not in stopped)


def service_cards(shared: Config) -> MachineCards:
    """The cards of a driver that waits for runs: emulated ones, those of a Ray, or of here.

    Raises:
        ConfigError: E1050 to E1053, an emulated card is unknown.
    """
    if shared.address is not None:
        return None
    if shared.emulate:
        from orchestrator.device.catalogue import emulated_cards

        return emulated_cards(shared.emulate)
    from orchestrator.device.nvml import survey

    return tuple(survey()[0])


def cards_of_driver(specs: Sequence[RunSpec], shared: Config, client: Client) -> MachineCards:
    """The cards that runs are planned for: of the driver that runs, else of this machine.

    Args:
        specs: The runs; they need no ids yet. They are checked against these cards.
        shared: Says which cards a driver would have that is started here.
        client: Of the store.

    Returns:
        None where nobody knows the cards yet.

    Raises:
        PlanError: E2001, no card can ever hold a run.
    """
    if client.driver() is None:
        try:
            return machine_cards(specs, shared)
        except NoDeviceError:
            return None
    nodes, types = client.nodes(), types_to_come(client)
    if not nodes:
        return None
    check_on(specs, nodes, types)
    return (*(card for node in nodes for card in node.cards), *cards_to_come(types))


def recorded_cards(client: Client) -> tuple[Card, ...]:
    """The emulated cards that the last driver of this store had; empty when they were real."""
    cards: tuple[Card, ...] = ()
    if client.is_there:
        with client.store() as store:
            for event in store.replay():
                if isinstance(event, NodeJoined):
                    cards = event.node.cards
    return cards if all(card.is_emulated for card in cards) else ()


def _without_rays_own(spec: RunSpec) -> RunSpec:
    labels = {key: each for key, each in spec.labels.items() if not key.startswith(_RAYS_OWN)}
    return replace(spec, labels=labels)


def _alone(spec: RunSpec, run_id: RunId) -> RunSpec:
    """The run as if it came after no other: what it asks of the cards is the same."""
    return replace(spec, run_id=run_id, after=(), weights_from=None)
