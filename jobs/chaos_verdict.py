"""What a drill on two nodes proves: laws over its journal, who survived, seconds to recover."""

import os
from collections import defaultdict
from collections.abc import Sequence
from math import ceil

from jobs.chaos import Tally, violations
from jobs.chaos_acts import has_ended
from jobs.chaos_drill import GONE_WITHIN, Drill, Hurt
from orchestrator.messages import AttemptEvent, Event, GangStarted, RunSubmitted
from orchestrator.types import AttemptId, RunId, Seconds

__all__ = ["RECOVERED_WITHIN", "recoveries", "verdict"]

RECOVERED_WITHIN: Seconds = 10.0  # from the start of a driver to the first attempt that trains


def verdict(drill: Drill) -> list[str]:
    """Laws that were broken; prints what was counted, and how long it took to recover.

    Seconds are no law: they depend on what else the machine does, and are told beside its load.
    """
    tally = Tally(target="two", kills=drill.kills.total())
    wrong = violations(tally, drill.home, drill.epochs)
    events = drill.events()
    submitted = {event.spec.run_id for event in events if isinstance(event, RunSubmitted)}
    if submitted != set(drill.asked):
        wrong.append(f"asked for and not recorded, or otherwise: {submitted ^ set(drill.asked)}")
    wrong += _unfenced(events)
    wrong += _zombies(drill)
    wrong += [f"hang: {what}" for what in drill.hangs]
    wrong += [f"survived {GONE_WITHIN:.0f} s: {who}" for who in drill.survivors]
    seconds = recoveries(drill)
    for kind, num in sorted(drill.kills.items()):
        print(f"  {kind:<24}{num:>4}")
    print(
        f"{tally.kills} kills, {tally.runs} runs, {tally.epochs} epochs, {tally.attempts} attempts,"
        f" {tally.repeated} epochs repeated, {len(drill.starts)} drivers,"
        f" {len(drill.frozen)} attempts let go on after their lease,"
        f" {sum(drill.zombie_checkpoints.values())} checkpoints that they wrote and nobody counts"
    )
    for kind, values in seconds.items():
        print(f"recovery after {kind:<16} {_spread(values)}")
    drivers = seconds.get("driver", [])
    num = sum(value <= RECOVERED_WITHIN for value in drivers)
    load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
    print(
        f"drivers that trained within {RECOVERED_WITHIN:.0f} s of their start:"
        f" {num} of {len(drivers)}  (load of this machine {load} on {os.cpu_count()} CPUs)"
    )
    return wrong


def recoveries(drill: Drill) -> dict[str, list[Seconds]]:
    """Seconds until something trains again, by what was hurt.

    Of a driver they count from the start of the next one, and only where it lived until then. Of
    a worker or a node they count from the kill to the next attempt of the same run: the pause
    after a failure (2 s, then twice as long) and the time until the loss is noticed are in it.
    """
    started = [event for event in drill.events() if isinstance(event, GangStarted)]
    found: dict[str, list[Seconds]] = defaultdict(list)
    ends = [*drill.starts[1:], float("inf")]
    for begun, end in zip(drill.starts, ends, strict=True):
        first = min((event.at for event in started if begun <= event.at < end), default=None)
        if first is not None:
            found["driver"].append(first - begun)
    for hurt in drill.hurts:
        if hurt.attempts and not hurt.kind.startswith(("driver", "head", "raylet of")):
            found[hurt.kind] += _again(hurt, started)
    return dict(found)


def _again(hurt: Hurt, started: Sequence[GangStarted]) -> list[Seconds]:
    """Seconds to the next start of each run that was hurt and was started again."""
    found: list[Seconds] = []
    for attempt in hurt.attempts:
        later = [
            event.at - hurt.at
            for event in started
            if event.attempt.run_id == attempt.run_id and event.attempt.number > attempt.number
        ]
        found += later[:1]
    return found


def _unfenced(events: Sequence[Event]) -> list[str]:
    """Attempts that were recorded after their end, or after a newer one of their run."""
    wrong: list[str] = []
    ended: set[AttemptId] = set()
    newest: dict[RunId, int] = {}
    for event in events:
        if not isinstance(event, AttemptEvent):
            continue
        attempt = event.attempt
        if attempt in ended or attempt.number < newest.get(attempt.run_id, 0):
            wrong.append(f"{attempt}: {type(event).__name__} was recorded after it was over")
        newest[attempt.run_id] = attempt.number
        if has_ended(event):
            ended.add(attempt)
    return wrong


def _zombies(drill: Drill) -> list[str]:
    """Attempts that wrote on after they could know that they were given up.

    Before a checkpoint a worker waits until the epoch before is recorded or refused. So it may
    write one that nobody counts, of the epoch in which it was stopped: that is the first report to
    be refused.
    """
    return [
        f"{attempt} wrote {num} checkpoints after it was given up"
        for attempt, num in drill.zombie_checkpoints.items()
        if num > 1
    ]


def _spread(values: Sequence[Seconds]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    middle, p90 = ordered[len(ordered) // 2], ordered[ceil(0.9 * len(ordered)) - 1]
    return (
        f"{len(ordered):>4} x  least {ordered[0]:5.1f}  median {middle:5.1f}"
        f"  p90 {p90:5.1f}  most {ordered[-1]:5.1f} s"
    )
