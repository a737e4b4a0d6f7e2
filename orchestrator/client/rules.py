"""How the cluster is shared: weights and quotas of queues, and the policy; asked of the driver."""

from orchestrator.client.access import Client
from orchestrator.config.types import Config
from orchestrator.messages import Event, PolicyChanged, QueueChanged
from orchestrator.types import Seconds

__all__ = ["ask_rules"]


def ask_rules(client: Client, shared: Config, at: Seconds) -> None:
    """Ask for what a config says about sharing; nothing where it says nothing."""
    events: list[Event] = [QueueChanged(at=at, rule=rule) for rule in shared.queues]
    if shared.policy is not None:
        events.append(PolicyChanged(at=at, name=shared.policy))
    if events:
        client.ask(events)
