"""Keeps a run going when memory runs out: the piece is cut, and the same batch runs again.

    step:        keep state, run the pieces; did anyone run out?
                 no: go on, perhaps larger;  yes: put back, free, cut, again
    validation:  run the pieces of a batch;  ran out: free, cut, the same batch again

What an out-of-memory error leaves behind is freed outside of its handler: while the error is
handled, the frames of its traceback hold the tensors of the step. All ranks of a gang decide
alike, since what each found is put together after every step.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from orchestrator.errors import TrainingError
from orchestrator.messages import Recut
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.failures import out_of_memory
from orchestrator.trainer.leak import growth
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.piece_size import PieceSize
from orchestrator.trainer.snapshot import keep_snapshot
from orchestrator.trainer.spill import StepTimes, is_full
from orchestrator.trainer.step_state import StepState
from orchestrator.types import Bytes, Seconds, TrainTask

__all__ = ["Agree", "EpochMemory", "Governor"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Agree = Callable[[int, int], tuple[int, int]]
"""Over all ranks: the largest of the first numbers, the smallest of the second."""

_SPILLS = "the card is full, and steps take many times longer than they did"
_MEASURE_EVERY = 32  # steps: asking the allocator takes as long as a kernel launch or two


@dataclass(frozen=True, slots=True)
class _Failure:
    """Memory ran out; tensors of the step are gone by the time anyone reads this."""

    what: str
    live_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMemory:
    """What an epoch took: peaks since the micro-batch last changed, and what happened to it."""

    micro_batch: int
    peak_bytes: Bytes
    peak_reserved_bytes: Bytes
    num_recuts: int
    leak_bytes: Bytes  # growth per epoch; 0 without a leak


class Governor:
    """Decides how large pieces are while one attempt trains.

    Args:
        task: The attempt; its micro-batch is the first size.
        device: Where it trains.
        link: Told of every change.
        options: Of the run.
        agree: Puts together what the ranks found; None where there is one.
        clock: Monotonic seconds, for the pace of steps.
    """

    def __init__(
        self,
        task: TrainTask,
        device: Device,
        link: RunLink,
        options: MemoryOptions,
        *,
        agree: Agree | None = None,
        clock: Callable[[], Seconds] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._task, self._device, self._link = task, device, link
        self._agree = agree or (lambda most, least: (most, least))
        batch = task.batch
        most = task.spec.micro_batch or batch.rank_batch
        self._training = PieceSize(
            size=batch.micro_batch,
            ceiling=max(batch.micro_batch, min(most, batch.rank_batch)),
            target=options.target,
        )
        self._adapts = options.adapt
        self._validation: PieceSize | None = None
        self._times = StepTimes()
        self._epoch = 0
        self._num_recuts = 0
        self._step_ended: Seconds | None = None
        self._live: list[Bytes] = []
        self._has_snapshot = False

    @property
    def micro_batch(self) -> int:
        """Samples of a piece in training, now."""
        return self._training.size

    @property
    def task(self) -> TrainTask:
        """The attempt, with the micro-batch as it is now."""
        return replace(self._task, batch=replace(self._task.batch, micro_batch=self.micro_batch))

    def step(self, work: Callable[[int], Result], state: StepState) -> Result:
        """Run the pieces of one optimizer step, and again with smaller ones if memory runs out.

        Args:
            work: Runs forward and backward of the whole batch in pieces of at most so many
                samples; may be called several times with the same effect.
            state: What `work` changes.

        Raises:
            TrainingError: OUT_OF_MEMORY, a piece of one sample does not fit.
        """
        state.keep()
        while True:
            found = self._attempt(work, self._training.size)
            failure = found if isinstance(found, _Failure) else None
            if failure is not None:
                self._clean_up(state)
            room = self._room() if failure is not None else None
            wanted, why = self._wanted(failure, room)
            has_failed, size = self._agree(int(failure is not None), wanted)
            if not has_failed and not isinstance(found, _Failure):
                if size != self._training.size:
                    self._change(size, why or "another rank has less room")
                return found
            if failure is None:  # this rank had room, another had not: all repeat the step
                del found
                self._clean_up(state)
                self._training.smaller(self._room())
            self._repeat(size, failure, room)

    def validate(self, work: Callable[[int], Result], num_samples: int) -> Result:
        """Run one validation batch in pieces, and again with smaller ones if memory runs out.

        Args:
            work: Judges the whole batch in pieces of at most so many samples; may be called
                several times with the same effect.
            num_samples: Samples of the batch.

        Raises:
            TrainingError: OUT_OF_MEMORY, a piece of one sample does not fit.
        """
        if self._validation is None:
            self._validation = PieceSize(size=num_samples, ceiling=num_samples)
        piece = self._validation
        while True:
            found = self._attempt(work, piece.size)
            if not isinstance(found, _Failure):
                return found
            self._device.release()
            piece.size = min(piece.size, num_samples)
            size = piece.smaller(self._room())
            if size is None:
                raise self.gave_up(f"a validation batch of one sample: {found.what}")
            self._tell(piece.size, size, self._told(found, "validation"), in_validation=True)
            piece.become(size)

    def has_room(self, num_bytes: Bytes) -> bool:
        """True when this process, and every other rank, can get so many bytes now."""
        if self._device.budget_bytes is None:
            return True
        has_room = self._can_get(num_bytes)
        if not has_room:
            self._device.release()
            has_room = self._can_get(num_bytes)
        return not self._agree(int(not has_room), 0)[0]

    def gave_up(self, why: str) -> TrainingError:
        """The error with which the attempt ends: nothing is left to cut here."""
        return out_of_memory(self.task, self._device, why)

    def epoch_begins(self, epoch: int) -> None:
        """Measure anew. `epoch` counts from 1."""
        self._epoch = epoch
        self._num_recuts = 0
        self._step_ended = None
        self._device.reset_peak()

    def epoch_ends(self) -> EpochMemory:
        """What the epoch took; a leak is told in the log."""
        self._live.append(self._device.live_bytes())
        leak = growth(self._live)
        if leak:
            log.warning(
                "memory leaks: %.0f MiB more after each epoch, %.2f GiB alive after epoch %d",
                leak / 2**20,
                self._live[-1] / 2**30,
                self._epoch,
            )
        return EpochMemory(
            micro_batch=self.micro_batch,
            peak_bytes=self._device.peak_bytes(),
            peak_reserved_bytes=self._device.peak_reserved_bytes(),
            num_recuts=self._num_recuts,
            leak_bytes=leak,
        )

    def _attempt(self, work: Callable[[int], Result], size: int) -> Result | _Failure:
        try:
            return work(size)
        except Exception as error:
            if not self._device.is_out_of_memory(error):
                raise
            if not self._has_snapshot:
                self._has_snapshot = True
                keep_snapshot(self._device, self._task)
            what = (str(error).splitlines() or [type(error).__name__])[0]
            return _Failure(what, self._device.live_bytes())

    def _clean_up(self, state: StepState) -> None:
        state.restore()
        self._device.release()

    def _wanted(self, failure: _Failure | None, room: Bytes | None) -> tuple[int, str]:
        """The next size as far as this rank can tell, 0 when there is none; and why."""
        piece = self._training
        if failure is not None:
            return piece.smaller(room) or 0, ""
        piece.went_well()
        if piece.num_clean == 2 or piece.num_clean % _MEASURE_EVERY == 1:
            piece.measured(self._device.live_bytes(), self._device.peak_bytes())
        if self._spills():
            return piece.smaller(self._room()) or 1, _SPILLS
        if self._adapts and piece.may_grow and piece.num_clean % piece.grow_after == 0:
            larger = piece.larger(self._room())
            if larger is not None:
                return larger, f"{piece.num_clean} steps without a fault, and there is room"
        return piece.size, ""

    def _spills(self) -> bool:
        now, before = self._clock(), self._step_ended
        self._step_ended = now
        if before is None or not self._times.add(now - before):
            return False
        return self._device.torch_device != "cpu" and is_full(self._device.memory())

    def _repeat(self, size: int, failure: _Failure | None, room: Bytes | None) -> None:
        """Change to the size that all ranks agreed on, after one of them ran out."""
        what = "another rank ran out of memory" if failure is None else failure.what
        if size < 1:
            raise self.gave_up(what)
        if failure is not None:
            what = self._told(failure, "training") + (
                f", room for {room / 2**20:.0f} MiB" if room is not None else ""
            )
        self._change(size, what)

    def _change(self, size: int, why: str) -> None:
        self._tell(self._training.size, size, why)
        self._training.become(size)
        self._times.clear()
        self._step_ended = None
        self._device.reset_peak()

    def _told(self, failure: _Failure, where: str) -> str:
        alive = failure.live_bytes / 2**20
        return f"out of memory in {where} with {alive:.0f} MiB alive: {failure.what}"

    def _tell(self, old: int, new: int, why: str, *, in_validation: bool = False) -> None:
        self._num_recuts += 1
        what = "validation batch" if in_validation else "micro-batch"
        batch = self._task.batch.effective_batch
        text = f"{what} {old} -> {new}, the effective batch stays {batch} ({why})"
        log.log(logging.WARNING if new < old else logging.INFO, "epoch %d: %s", self._epoch, text)
        if self._task.rank == 0:
            recut = Recut(epoch=self._epoch, old=old, new=new, why=why, in_validation=in_validation)
            self._link.recut(recut)

    def _room(self) -> Bytes | None:
        """Bytes that this process may hold in all: its budget, or what others leave of the card.

        Free bytes and our own are counted, not foreign processes: in a container with process
        ids of its own, the driver does not know which processes are ours.
        """
        budget = self._device.budget_bytes
        if budget is None:
            return None
        return min(budget, self._device.memory().free_bytes + self._device.reserved_bytes())

    def _can_get(self, num_bytes: Bytes) -> bool:
        try:
            torch.empty(num_bytes, dtype=torch.uint8, device=self._device.torch_device)
        except Exception as error:
            if not self._device.is_out_of_memory(error):
                raise
            return False
        return True
