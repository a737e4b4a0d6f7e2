"""Settings that runs have tried, for people: a table, or JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.console.say import columns, emit, emit_json
from orchestrator.types import Finding

__all__ = ["show_findings"]

_HEAD = ("MODEL", "GPU", "SETTING", "VALUE", "MEASURED", "SAID", "HOLDS FOR")


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what settings were measured to be best, and what each answer holds for."""
    if as_json:
        emit_json(findings=[asdict(finding) for finding in findings])
    elif findings:
        emit(columns(_HEAD, map(_row, findings)))
    else:
        emit("nothing was tried yet: runs try what their config leaves open, such as")
        emit("  workers: auto")


def _row(finding: Finding) -> tuple[object, ...]:
    value = str(finding.value).lower() if isinstance(finding.value, bool) else finding.value
    measured = "yes" if finding.is_measured else "no"
    return (
        finding.model,
        finding.card,
        finding.name,
        value,
        measured,
        finding.told,
        finding.kind,
    )
