"""Bugs planted by hand: changes of the source that the seeded schedules of faults must find."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTATIONS", "Mutation"]

STORE = "orchestrator/store/memory.py"
DRIVER = "orchestrator/driver.py"
SCHEDULE = "orchestrator/schedule"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug: `old`, which is there exactly once, becomes `new`."""

    name: str
    path: str
    old: str
    new: str

    def plant(self, root: Path) -> None:
        """Change a copy of the source."""
        file = root / self.path
        text = file.read_text()
        assert text.count(self.old) == 1, self.name
        file.write_text(text.replace(self.old, self.new))


MUTATIONS = (
    # --- the record
    Mutation(
        "the fence is not checked",
        STORE,
        "if held is None or held.fence != number:",
        "if held is None:",
    ),
    Mutation(
        "a terminal run may still be written to",
        STORE,
        "held.fence = None if status.state in TERMINAL else status.attempt",
        "held.fence = status.attempt",
    ),
    Mutation(
        "an epoch is counted twice",
        STORE,
        "if row is not None and row.attempt.number >= number:",
        "if row is not None and row.attempt.number > number:",
    ),
    Mutation(
        "a wish with a known key is taken again", STORE, "if key in self._keys:", "if not key:"
    ),
    Mutation(
        "wishes leave the inbox without being in the journal",
        STORE,
        "        self._events.extend(events)\n",
        "",
    ),
    Mutation(
        "the last record is lost when the journal is read",
        STORE,
        "return iter(tuple(self._events))",
        "return iter(tuple(self._events[:-1]))",
    ),
    # --- the driver
    Mutation(
        "actions come before their publication",
        DRIVER,
        """        actions: tuple[Action, ...] = self.scheduler.handle(event)
        changed = self.scheduler.drain_changes()
        if changed:
            self.store.publish(changed)
        self._carry_out(actions)
""",
        """        actions: tuple[Action, ...] = self.scheduler.handle(event)
        changed = self.scheduler.drain_changes()
        self._carry_out(actions)
        if changed:
            self.store.publish(changed)
""",
    ),
    Mutation(
        "an event is followed before it is recorded",
        DRIVER,
        """            if self.store.append(event):
                self._follow(event)
""",
        """            self._follow(event)
            self.store.append(event)
""",
    ),
    Mutation(
        "what a dead driver left behind is not closed",
        DRIVER,
        "    loop.take(scheduler.orphans(at=clock.now()))\n",
        "",
    ),
    Mutation(
        "what was replayed is not published",
        DRIVER,
        "    store.publish(scheduler.drain_changes())\n",
        "    scheduler.drain_changes()\n",
    ),
    Mutation(
        "a new driver starts gangs before all nodes of the old one are lost",
        f"{SCHEDULE}/scheduler.py",
        "with_others=node_id != ids[-1]",
        "with_others=False",
    ),
    # --- attempts
    Mutation(
        "an attempt keeps the number of the one before",
        f"{SCHEDULE}/lifecycle.py",
        "record.attempt += 1",
        "record.attempt = max(record.attempt, 1)",
    ),
    Mutation(
        "a run that starts stays in the queue",
        f"{SCHEDULE}/lifecycle.py",
        "        self.queue.remove(record)\n        record.move(Placed",
        "        record.move(Placed",
    ),
    Mutation(
        "an attempt is told of no checkpoint",
        f"{SCHEDULE}/lifecycle.py",
        "checkpoints=record.checkpoints,",
        "checkpoints=(),",
    ),
    Mutation(
        "checkpoints are told oldest first",
        f"{SCHEDULE}/gangs.py",
        "record.checkpoints = (event.checkpoint, *record.checkpoints)",
        "record.checkpoints = (*record.checkpoints, event.checkpoint)",
    ),
    Mutation(
        "a message that comes twice stops the driver",
        f"{SCHEDULE}/runs.py",
        "        _RUNNING: (_RUNNING,),  # the message came twice\n",
        "",
    ),
    Mutation(
        "the longest duration begins anew with a message that comes twice",
        f"{SCHEDULE}/gangs.py",
        "if record.state is not RunState.STARTING:  # told twice",
        "if record.state is RunState.STOPPING:  # told twice",
    ),
    Mutation(
        "a kill that was lost is not repeated",
        f"{SCHEDULE}/gangs.py",
        "            record.stop = StopReason.YIELD_TIMEOUT\n        life.kill(record)\n",
        "            record.stop = StopReason.YIELD_TIMEOUT\n",
    ),
    Mutation(
        "nobody looks whether a killed gang is gone",
        f"{SCHEDULE}/lifecycle.py",
        "        self.actions.append(KillGang(attempt=record.attempt_id))\n"
        "        self._leaves_by(record)\n",
        "        self.actions.append(KillGang(attempt=record.attempt_id))\n",
    ),
    Mutation(
        "a run that was cancelled goes on after its node was lost",
        f"{SCHEDULE}/gangs.py",
        "is_leaving = record.stop in (StopReason.CANCELLED, StopReason.MAX_DURATION)",
        "is_leaving = record.stop is StopReason.MAX_DURATION",
    ),
    Mutation(
        "a gang that leaves is not cancelled any more",
        f"{SCHEDULE}/people.py",
        'record.stop, record.detail = StopReason.CANCELLED, "cancelled"',
        'record.detail = "cancelled"',
    ),
    # --- cards
    Mutation(
        "cards are not given back",
        f"{SCHEDULE}/lifecycle.py",
        "        self.ledger.give_back(record.spec.run_id, record.held)\n",
        "",
    ),
    Mutation(
        "bytes of a card are not counted",
        f"{SCHEDULE}/ledger.py",
        "card.used_bytes += share.memory_bytes",
        "card.used_bytes += 0 * share.memory_bytes",
    ),
    Mutation(
        "a whole card is shared",
        f"{SCHEDULE}/cards.py",
        "return num_users == 0 and self.card.foreign_bytes <= limit",
        "return num_users <= 1 and self.card.foreign_bytes <= limit",
    ),
    Mutation(
        "CPUs are not counted",
        f"{SCHEDULE}/ledger.py",
        "self._set_cpus(room, room.free_cpus - share.num_cpus)",
        "self._set_cpus(room, room.free_cpus)",
    ),
    Mutation(
        "cards are free as soon as a gang is asked to leave",
        f"{SCHEDULE}/lifecycle.py",
        "        self._end_of_training(record)\n        self._evictions.remove(record)\n",
        "        self._end_of_training(record)\n"
        "        self.ledger.give_back(record.spec.run_id, record.held)\n"
        "        record.held = ()\n"
        "        self._evictions.remove(record)\n",
    ),
    Mutation(
        "claims on a lost node are kept",
        f"{SCHEDULE}/dispatch.py",
        "        for record in self.claims.on(node_id):\n            self.drop(record)\n",
        "        _ = node_id\n",
    ),
    Mutation(
        "a gang is not told as lost with its node",
        f"{SCHEDULE}/ledger.py",
        "        return tuple(room.runs)\n",
        "        return tuple(room.runs)[1:]\n",
    ),
    Mutation(
        "a card that was put aside is never tried again",
        f"{SCHEDULE}/scheduler.py",
        "            life.health.try_again(life.now)\n",
        "            pass\n",
    ),
    # --- retries
    Mutation(
        "a retry too few",
        f"{SCHEDULE}/retry.py",
        "if num > getattr(budget, rule.budget):",
        "if num >= getattr(budget, rule.budget):",
    ),
    Mutation(
        "a retry too many",
        f"{SCHEDULE}/retry.py",
        "if num > getattr(budget, rule.budget):",
        "if num > getattr(budget, rule.budget) + 1:",
    ),
    Mutation(
        "a lost worker is the project's fault",
        f"{SCHEDULE}/retry.py",
        "Cause.WORKER_LOST: _LOST,",
        "Cause.WORKER_LOST: _USER,",
    ),
    Mutation(
        "an epoch pays nothing back",
        f"{SCHEDULE}/gangs.py",
        "        record.faults = retry.paid_back(record.faults)\n",
        "",
    ),
    Mutation(
        "an epoch pays the project's own faults back",
        f"{SCHEDULE}/retry.py",
        "for cause, rule in _RULES.items() if cause.is_infrastructure)",
        "for cause, rule in _RULES.items() if cause)",
    ),
    Mutation(
        "a person who resumes a run gives it no fresh budget",
        f"{SCHEDULE}/people.py",
        "record.faults, record.ran_seconds = Faults(), 0.0",
        "record.faults, record.ran_seconds = record.faults, 0.0 * len(str(Faults()))",
    ),
    # --- time
    Mutation(
        "a start is given up after a tenth of its time",
        f"{SCHEDULE}/lifecycle.py",
        "self.timers.set(record, self.now + self._start_timeout)",
        "self.timers.set(record, self.now + self._start_timeout / 10)",
    ),
    Mutation(
        "moments that nobody waits for any more come true",
        f"{SCHEDULE}/timers.py",
        "if heap[0][3].deadline == due:",
        "if heap[0][3].deadline is not None:",
    ),
    Mutation(
        "a date that was set back makes every pause as long as the correction",
        f"{SCHEDULE}/clock.py",
        "if back > SET_BACK_SECONDS:",
        "if back > SET_BACK_SECONDS and not life.runs:",
    ),
    Mutation(
        "work is taken for done too early",
        f"{SCHEDULE}/people.py",
        "    life.num_unfinished += 1\n    if why := ",
        "    if why := ",
    ),
)
