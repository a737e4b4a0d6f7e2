"""The worker: one actor, one process, one share of a card; one rank of an attempt's training."""

import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import ray

from orchestrator.cluster.attempt_files import attempt_folder, attempt_log
from orchestrator.cluster.endings import Ending, failure_of
from orchestrator.cluster.forked import die_with_parent
from orchestrator.cluster.link import STORE_SECONDS, RayLink, Signs, StopFlag
from orchestrator.cluster.meeting import Meeting, Started, listening, place_here, reach_others_by
from orchestrator.cluster.stacks import dumped_on_signal, stacks_file
from orchestrator.cluster.tidy import noted
from orchestrator.cluster.verified import (
    first_verified,
    run_folder,
    verified_start,
    verified_weights,
)
from orchestrator.errors import StoreError, TrainingError
from orchestrator.messages import StartGang
from orchestrator.ports import Checkpoints, Device, Parts, StoredRun
from orchestrator.types import (
    Card,
    Cause,
    CheckpointRef,
    Outcome,
    Seconds,
    StopMode,
    TrainTask,
)

__all__ = ["Worker"]


class Worker:
    """One rank of one attempt after the other; made without heavy imports, it answers at once.

    The environment is set here and not through Ray's `runtime_env`: that costs a fresh process and
    0.8 s a start, while a process that Ray keeps ready has not imported torch either.

    Args:
        parts: The implementations by name.
        inbox: Handle of the `Inbox` actor.
        rank: Which of the gang's shares is this one's, counted from 0.
        card: The card of the share; None computes on the CPU.
        num_cpus: CPUs that its computing may use.
    """

    def __init__(
        self,
        parts: Parts,
        inbox: Any,
        *,
        rank: int,
        card: Card | None,
        num_cpus: float,
    ) -> None:
        die_with_parent()
        self._parts = parts
        self._inbox = inbox
        self._rank = rank
        self._card = card
        self._listener: socket.socket | None = None
        self._stop = StopFlag()
        self._signs = Signs()
        self._getting_ready = Lock()
        os.environ.update(parts.environment(card, num_cpus))

    def get_ready(self, trainer: str) -> None:
        """Import what trainings will need; runs beside `start`, and `fit` waits for it."""
        with self._getting_ready:
            self._parts.get_ready(trainer, self._card)

    def start(self, order: StartGang, paths: Sequence[str]) -> Started | Ending:
        """Be the worker of an attempt, the first or one after a `fit` that left nothing.

        Args:
            order: The attempt to run.
            paths: Those that the driver sees.
        """
        self._order = order
        self._stored: StoredRun | None = None
        self._stop = StopFlag()
        self._signs = Signs()
        try:
            return self._started(paths)
        except Exception as error:  # such as a checkpoint of another run that is gone
            return failure_of(error, is_card_out_of_memory=False)

    def _started(self, paths: Sequence[str]) -> Started:
        port, resume_from = 0, None
        if (spec := self._order.spec).storage:
            self._stored = self._parts.stored(spec, self._order.attempt, self._rank)
            self._order = replace(self._order, spec=replace(spec, folder=self._stored.folder))
        if self._rank == 0 and self._order.placement.world_size > 1:
            self._listener = listening()
            port = int(self._listener.getsockname()[1])
            resume_from = self._newest()
        accelerators = ray.get_runtime_context().get_accelerator_ids().get("GPU", ())
        return Started(
            pid=os.getpid(),
            accelerators=tuple(map(str, accelerators)),
            place=place_here(ray.util.get_node_ip_address(), port, paths),
            resume_from=resume_from,
            folder=str(attempt_folder(self._order)) if self._stored else "",
        )

    def ask_stop(self, mode: StopMode) -> None:
        """Ask the training to leave. Runs beside `fit`, in a thread of its own."""
        self._stop.ask(mode)

    def quiet_seconds(self) -> Seconds:
        """Seconds since the trainer last came by. Runs beside `fit`, in a thread of its own."""
        return self._signs.quiet_seconds

    def fit(self, meeting: Meeting | None) -> Ending:
        """Train, and say how it ended. Never raises: what went wrong is in the answer.

        Args:
            meeting: Where the ranks of the gang meet; None for a gang of one.
        """
        device: Device | None = None
        with self._getting_ready:
            before = noted()

        def train() -> Ending:
            nonlocal device
            self._signs.give()
            _redirect(attempt_log(self._order, self._rank))
            folder = attempt_folder(self._order)
            folder.mkdir(parents=True, exist_ok=True)
            with dumped_on_signal(stacks_file(folder, self._rank)), self._met(meeting):
                share = self._order.placement.shares[self._rank]
                device = self._parts.device(self._card, share.memory_bytes)
                with self._moving():
                    resume_from = self._start_from(meeting)
                    self._fetch_best(resume_from)
                return self._train(device, resume_from)

        ending = _guarded(
            train,
            lambda error: device is not None and device.is_out_of_memory(error),
        )
        if self._stored is not None:
            with self._moving():
                ending = _put_up(self._stored, ending)
        if not self._order.spec.warm or device is None or ending.cause is not None:
            return ending
        left = before.put_back(device)
        if left:
            sys.stderr.write(f"the process ends with its run; it left {', '.join(left)}\n")
        return replace(ending, is_clean=not left)

    def _met(self, meeting: Meeting | None) -> AbstractContextManager[None]:
        if meeting is None:
            return nullcontext()
        os.environ.update(meeting.environment())
        reach_others_by(ray.util.get_node_ip_address())
        listener = None if self._listener is None else self._listener.detach()
        return self._parts.process_group(self._card, listener=listener, timeout=meeting.timeout)

    def _checkpoints(self, folder: str) -> Checkpoints:
        """The checkpoints of the run whose folder has this path or address."""
        return (self._stored or self._parts).checkpoints(folder)

    @property
    def _own(self) -> Checkpoints:
        return self._checkpoints(self._order.spec.address or self._order.spec.folder)

    def _newest(self) -> CheckpointRef | None:
        found = first_verified(self._own, self._order.checkpoints)
        return found or verified_start(self._order, self._checkpoints)

    def _here(self, ref: CheckpointRef | None) -> CheckpointRef | None:
        return ref if ref is None or self._stored is None else self._stored.here(ref)

    def _moving(self) -> AbstractContextManager[None]:
        """While inside, files may come from a store or go there, which takes a while."""
        return self._signs.waiting(STORE_SECONDS) if self._stored else nullcontext()

    def _fetch_best(self, resume_from: CheckpointRef | None) -> None:
        """Have the best epoch's checkpoint on this node too: its weights are left at the end."""
        if self._stored is not None and resume_from is not None and self._rank == 0:
            known = (ref for ref in self._order.checkpoints if ref.epoch <= resume_from.epoch)
            first_verified(self._own, [ref for ref in known if ref.is_best][:1])

    def _start_from(self, meeting: Meeting | None) -> CheckpointRef | None:
        if meeting is None:
            return self._newest()
        ref = meeting.resume_from
        if ref is None or self._rank == 0:
            return ref
        if not self._checkpoints(run_folder(ref)).verify(ref):
            raise TrainingError(
                f"rank {self._rank} does not have the checkpoint that rank 0 goes on from",
                cause=Cause.START_FAILED,
                code="E4122",
                why=(f"missing or damaged here: {ref.path}",),
                fix=("keep run folders on storage that every node has under the same path",),
            )
        return ref

    def _train(self, device: Device, resume_from: CheckpointRef | None) -> Ending:
        order, rank = self._order, self._rank
        folder = attempt_folder(order)
        own = folder / f"rank-{rank}" if rank else folder  # what two write, one of them damages
        own.mkdir(parents=True, exist_ok=True)
        with self._moving():
            weights = None if resume_from else verified_weights(order, self._checkpoints)
        link = RayLink(
            attempt=order.attempt,
            inbox=self._inbox if rank == 0 else None,
            checkpoints=self._own,
            device=device,
            stop=self._stop,
            signs=self._signs,
            resume_from=self._here(resume_from),
            images_of_step=order.batch.effective_batch,
            stored=self._stored,
            until=order.spec.until,
        )
        if link.is_complete():  # the attempt before had reported all, and its end was lost
            return Ending(outcome=Outcome.FINISHED)
        task = TrainTask(
            attempt=order.attempt,
            spec=order.spec,
            batch=order.batch,
            folder=str(own),
            rank=rank,
            weights=self._here(weights),
            findings=order.findings,
        )
        device.reset_peak()
        with device.session():
            outcome, metrics = self._parts.trainer(order.spec.trainer).fit(task, device, link)
        if link.is_complete():
            outcome = Outcome.FINISHED
        return Ending(outcome=outcome, metrics=dict(metrics))


def _put_up(stored: StoredRun, ending: Ending) -> Ending:
    """Put up what the attempt has left; one that could not give it away has not finished."""
    try:
        stored.close()
    except StoreError as error:
        lost = failure_of(error, is_card_out_of_memory=False)
        if ending.cause is None:
            return lost
        return replace(ending, detail=f"{ending.detail}\n{lost.detail}")
    return ending


def _guarded(train: Callable[[], Ending], is_out_of_memory: Callable[[Exception], bool]) -> Ending:
    try:
        return train()
    except Exception as error:  # the one place where any fault becomes an ending
        traceback.print_exc()
        sys.stderr.flush()
        return failure_of(error, is_card_out_of_memory=is_out_of_memory(error))


def _redirect(log: Path) -> None:
    """Send what this process prints, C libraries and children included, to the attempt's log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
    finally:
        os.close(target)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, errors="backslashreplace")
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    told = logging.StreamHandler(sys.stderr)
    told.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("orchestrator")
    ours.handlers, ours.propagate = [told], False
    ours.setLevel(logging.INFO)
