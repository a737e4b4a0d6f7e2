"""Settings that earlier runs have tried: all of a store, or those that hold for a planned run."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.client.access import Client
from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Choice
from orchestrator.trainer.options_auto import (
    AUTO_KEYS,
    can_be,
    card_named,
    kind_of,
    versions_of,
)
from orchestrator.types import Finding, RunSpec

__all__ = ["findings_of", "forget_findings", "holding"]


def findings_of(client: Client) -> tuple[Finding, ...]:
    """All that is known, the newest last; nothing where there is no store yet."""
    if not client.is_there:
        return ()
    with client.store() as store:
        return store.findings()


def forget_findings(client: Client, model: str) -> int:
    """Forget what is known of a model; returns of how many settings."""
    if not client.is_there:
        return 0
    with client.store() as store:
        return store.forget_findings(model)


def holding(
    findings: Sequence[Finding], spec: RunSpec, choice: Choice, target: Target, num_cpus: int
) -> tuple[Finding, ...]:
    """Those that a run would go by, cut as planned, on such a card of a machine like this one.

    Args:
        findings: What is known.
        spec: The run.
        choice: How it is cut.
        target: The card.
        num_cpus: CPUs of the machine around the card.
    """
    settings = spec.settings
    device = f"{target.name} (emulated)" if target.is_emulated else target.name
    asked = Finding(
        trainer=spec.trainer,
        card=card_named(device),
        model=settings.model,
        kind="",
        name="",
        value=None,
        told="",
    )
    found = []
    for name in AUTO_KEYS.get(spec.trainer, ()):
        kind = kind_of(
            name,
            settings,
            micro_batch=choice.batch.micro_batch,
            num_cpus=num_cpus,
            versions=versions_of(spec.trainer),
            is_on_cpu=target.is_emulated,
        )
        about = replace(asked, kind=kind, name=name)
        found += [
            each
            for each in findings
            if replace(each, value=None, told="") == about and can_be(name, each.value)
        ]
    return tuple(found)
