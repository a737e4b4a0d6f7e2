"""Plans and the book for people: a table a project, why, what holds the bytes; or JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.client.plans import CardPlan
from orchestrator.client.together import Together
from orchestrator.console.say import columns, emit, emit_json, size_text
from orchestrator.plan.correct import Peak
from orchestrator.plan.ladder import COSTS, Rung
from orchestrator.plan.recommend import Advice

__all__ = ["exit_code", "show_advice", "show_book", "show_inference", "show_plans"]

_HEAD = ("GPU", "MEMORY", "BATCH", "CUT", "PRECISION", "NEEDS", "BUDGET", "FITS", "CONFIDENCE")
_MODULES = 20  # of thousands: those that hold most


def exit_code(plans: Sequence[CardPlan]) -> int:
    """5 where a project fits on none of the cards that were asked about, else 0."""
    projects = {plan.name for plan in plans}
    fine = {plan.name for plan in plans if plan.fits is not False}
    return 5 if projects - fine else 0


def show_plans(
    plans: Sequence[CardPlan], cards: Sequence[Together] = (), *, as_json: bool, verbose: bool
) -> int:
    """Print plans on stdout, and what each card holds at once; returns the exit code."""
    if as_json:
        emit_json(
            plans=[_object(plan) for plan in plans], together=[asdict(card) for card in cards]
        )
        return exit_code(plans)
    for project in dict.fromkeys(plan.name for plan in plans):
        own = [plan for plan in plans if plan.name == project]
        folds = f" ({own[0].num_folds} folds)" if own[0].num_folds else ""
        emit(f"{project}{folds}: {own[0].model}, {own[0].imgsz} px, {own[0].optimizer}")
        table = columns(_HEAD, (_row(plan) for plan in own))
        emit("\n".join(f"  {line}" for line in table.splitlines()))
        if own[0].ladder:
            emit(f"  may give up, in this order: {', '.join(own[0].ladder)}")
        if len(own) <= 4:
            for plan in own:
                _explain(plan, verbose=verbose)
    if len(cards) <= 4:
        for card in cards:
            emit(_all_on(card))
    emit("nothing was started")
    return exit_code(plans)


def _all_on(card: Together) -> str:
    """One line: whether all projects of the file fit on the card at once."""
    sizes = f"{size_text(card.shares_bytes)} of {size_text(card.room_bytes)}"
    if card.fits:
        what = "projects" if len(set(card.starting)) == len(card.starting) else "runs"
        return f"all {len(card.starting)} {what} fit on one {card.gpu} together ({sizes})"
    parts = [f"{_counted(card.starting) or 'none'} would start together"]
    if card.waiting:
        parts.append(f"{_counted(card.waiting)} would wait until one has ended")
    if card.impossible:
        parts.append(f"{_counted(card.impossible)} cannot run on it alone")
    return f"not all fit on one {card.gpu} together ({sizes} asked for): {'; '.join(parts)}"


def _counted(names: Sequence[str]) -> str:
    """Each name once, with its number of folds where it is there several times."""
    counts = Counter(names)
    return ", ".join(f"{name} x {num}" if num > 1 else name for name, num in counts.items())


def _object(plan: CardPlan) -> dict[str, object]:
    modules = dict(list(plan.modules.items())[:_MODULES])
    return {**asdict(plan), "gpu": plan.gpu, "modules": modules}


def _name(plan: CardPlan) -> str:
    return f"{plan.gpu} (emulated)" if plan.is_emulated else plan.gpu


def _row(plan: CardPlan) -> tuple[object, ...]:
    told = {True: "yes", False: "no", None: "unknown"}[plan.fits]
    rungs = [rung for rung in plan.rungs if rung != "cut"]
    return (
        _name(plan),
        size_text(plan.gpu_memory_bytes),
        plan.effective_batch,
        f"{plan.micro_batch} x {plan.accumulation_steps}" if plan.micro_batch else "-",
        plan.precision,
        size_text(plan.predicted_peak_bytes) if plan.predicted_peak_bytes else "-",
        size_text(plan.budget_bytes),
        f"{told}, by {' '.join(rungs)}" if plan.fits and rungs else told,
        plan.confidence,
    )


def _explain(plan: CardPlan, *, verbose: bool) -> None:
    emit(f"  {_name(plan)}: {plan.reason}")
    if plan.likely_bytes:
        emit(f"    nvidia-smi will probably show {size_text(plan.likely_bytes)}")
    for rung, saved in plan.savings.items():
        cost = COSTS[Rung(rung)]
        slower = f"a step takes about {cost.slowdown:.2f} times as long"
        emit(f"    {rung}: {_less(saved)} a card, {slower}")
        if verbose:
            emit(f"      {cost.source}")
    if plan.fits is False or verbose:
        for rung, why in plan.refused.items():
            emit(f"    not {rung}: {why}")
    for remedy in plan.remedies:
        emit(f"    would fit: {remedy}" if plan.fits is False else f"    {remedy}")
    if verbose and plan.parts:
        emit(_bars("    ", plan.parts))
        held = dict(list(plan.modules.items())[:_MODULES])
        emit(f"    the {len(held)} modules that hold most")
        emit(_bars("      ", {name or "(outside of modules)": n for name, n in held.items()}))


def _less(saved: int) -> str:
    return f"{size_text(saved)} less on" if saved >= 0 else f"{size_text(-saved)} more on"


def _bars(indent: str, held: Mapping[str, int]) -> str:
    total = max(1, sum(held.values()))
    rows = ((name, size_text(size), f"{size / total:.0%}") for name, size in held.items() if size)
    table = columns(("HELD BY", "BYTES", "SHARE"), rows)
    return "\n".join(indent + line for line in table.splitlines())


def show_inference(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> int:
    """Print the largest inference batch a card; returns 5 where a single picture is too much."""
    if as_json:
        emit_json(inference=list(rows))
    else:
        head = ("PROJECT", "GPU", "LARGEST BATCH", "NEEDS", "BUDGET")
        emit(
            columns(
                head,
                (
                    (row["project"], row["gpu"], row["batch"] or "none",
                     size_text(float(str(row["predicted_peak_bytes"]))),
                     size_text(float(str(row["budget_bytes"]))))
                    for row in rows
                ),
            )
        )  # fmt: skip
    fine = {row["project"] for row in rows if row["batch"]}
    return 5 if {row["project"] for row in rows} - fine else 0


def show_advice(rows: Mapping[str, Sequence[Advice]], *, as_json: bool) -> None:
    """Print recommended settings, a table a card."""
    if as_json:
        emit_json(
            recommendations=[
                {"gpu": gpu, **asdict(each)} for gpu, advice in rows.items() for each in advice
            ]
        )
        return
    for gpu, advice in rows.items():
        emit(gpu)
        body = ((each.key, each.value, each.confidence, each.reason) for each in advice)
        table = columns(("SETTING", "VALUE", "CONFIDENCE", "REASON"), body)
        emit("\n".join(f"  {line}" for line in table.splitlines()))


def show_book(peaks: Sequence[Peak], *, as_json: bool) -> None:
    """Print the book of measured peaks."""
    if as_json:
        emit_json(peaks=[asdict(peak) for peak in peaks])
        return
    if not peaks:
        emit("nothing was measured yet: every run adds to the book, and so does")
        emit("  orc memory profile CONFIG")
        return
    head = (
        "MODEL", "IMGSZ", "MICRO", "PRECISION", "GPU", "MEASURED", "RESERVED", "PREDICTED", "STEPS",
        "VALIDATED",
    )  # fmt: skip
    emit(columns(head, (_peak_row(peak) for peak in peaks)))


def _peak_row(peak: Peak) -> tuple[object, ...]:
    ratio = peak.predicted_bytes and peak.peak_bytes / peak.predicted_bytes
    return (
        peak.model,
        peak.imgsz,
        peak.micro_batch,
        peak.precision,
        f"{peak.card} (emulated)" if peak.is_emulated else peak.card,
        size_text(peak.peak_bytes),
        size_text(peak.peak_reserved_bytes) if peak.peak_reserved_bytes else "-",
        f"{size_text(peak.predicted_bytes)} ({ratio:.2f} x)" if peak.predicted_bytes else "-",
        peak.steps,
        "yes" if peak.has_validation else "no",
    )
