"""Keeps a run going when memory runs out: the piece is cut, and the same batch runs again.

    step:        keep state, run the pieces; did anyone run out?
                 no: go on, perhaps larger;  yes: put back, free, cut, again
    validation:  run the pieces of a batch;  ran out: free, cut, the same batch again
    nothing is left to cut: take the next rung of the ladder, and the same batch again

What an out-of-memory error leaves behind is freed outside of its handler: while the error is
handled, the frames of its traceback hold the tensors of the step. All ranks of a gang decide
alike, since what each found is put together after every step.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.errors import TrainingError
from orchestrator.plan.ladder import Rung
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.changes import Changes
from orchestrator.trainer.failures import out_of_memory
from orchestrator.trainer.leak import growth
from orchestrator.trainer.lockstep import OtherRankFailed
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.piece_size import PieceSize
from orchestrator.trainer.room import Shortage, can_get, room_on
from orchestrator.trainer.rungs import ALL, BETWEEN_STEPS, Rungs
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMemory:
    """What an epoch took: peaks since the micro-batch last changed, and what happened to it."""

    micro_batch: int
    peak_bytes: Bytes
    peak_reserved_bytes: Bytes
    num_recuts: int
    leak_bytes: Bytes  # growth per epoch; 0 without a leak
    rungs: tuple[str, ...]  # given up while the run trained


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
        self._task, self._device = task, device
        self._changes = Changes(task, link)
        self._agree = agree or (lambda most, least: (most, least))
        self.rungs = Rungs(
            options.ladder,
            taken=task.spec.given_up,
            everybody=lambda is_so: not self._agree(int(not is_so), 0)[0],
        )
        self._options = options
        self._training = self._pieces(task.batch.micro_batch)
        self._larger: int | None = None  # the size before the present one
        self._validation: PieceSize | None = None
        self._times = StepTimes()
        self._step_ended: Seconds | None = None
        self._live: list[Bytes] = []
        self._has_snapshot = False
        self.can_repeat = True  # False: no rank hears in a step that another ran out of memory

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
            TrainingError: OUT_OF_MEMORY, a piece of one sample does not fit, and nothing is left
                to give up in this attempt.
        """
        state.keep()
        while True:
            found = self._attempt(work, self._training.size)
            failure = found if isinstance(found, Shortage) and not found.is_other else None
            if failure is not None and not self.can_repeat:
                raise self.gave_up(failure.told("training"))
            if failure is not None:
                self._clean_up(state)
            room = room_on(self._device) if failure is not None else None
            wanted, why = self._wanted(failure, room)
            has_failed, size = self._agree(int(failure is not None), wanted)
            if not has_failed and not isinstance(found, Shortage):
                if size != self._training.size:
                    self._change(size, why or "another rank has less room")
                return found
            if failure is None:  # this rank had room, another had not: all repeat the step
                del found
                self._clean_up(state)
                self._training.smaller(room_on(self._device))
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
            if not isinstance(found, Shortage):
                return found
            self._device.release()
            piece.size = min(piece.size, num_samples)
            size = piece.smaller(room_on(self._device))
            if size is None:
                # Ranks validate apart, so that one alone changes nothing of a running gang.
                is_live = self._task.batch.world_size == 1
                why = f"a validation batch of one sample: {found.what}"
                self.give_up(why, helps=BETWEEN_STEPS, is_live=is_live)
                continue
            self._changes.recut(piece.size, size, found.told("validation"), in_validation=True)
            piece.become(size)

    def has_room(self, num_bytes: Bytes) -> bool:
        """True when this process, and every other rank, can get so many bytes now."""
        if self._device.budget_bytes is None:
            return True
        return not self._agree(int(not can_get(self._device, num_bytes)), 0)[0]

    def give_up(self, why: str, *, helps: Collection[Rung] = ALL, is_live: bool = True) -> None:
        """Take the next rung that helps, as nothing is left to cut; all ranks call it alike.

        Raises:
            TrainingError: OUT_OF_MEMORY, none is left, or the next one needs another attempt.
        """
        given = self.rungs.next(helps, is_live=is_live)
        if given is not None:
            self._changes.rung(given, self.micro_batch, why)
        if given is None or not given.is_live:
            raise out_of_memory(self.task, self._device, why)
        self._training = self._pieces(self.micro_batch)  # what was learnt of sizes holds no more
        self._begin_anew()

    def gave_up(self, why: str) -> TrainingError:
        """The error with which the attempt ends where memory ran out beside a step.

        At micro-batch 1 it is told which rung the next attempt should begin with.
        """
        if self.micro_batch == 1:
            given = self.rungs.next(is_live=False)
            if given is not None:
                self._changes.rung(given, self.micro_batch, why)
        return out_of_memory(self.task, self._device, why)

    def epoch_begins(self, epoch: int) -> None:
        """Measure anew. `epoch` counts from 1."""
        self._changes.begin(epoch)
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
                self._changes.epoch,
            )
        return EpochMemory(
            micro_batch=self.micro_batch,
            peak_bytes=self._device.peak_bytes(),
            peak_reserved_bytes=self._device.peak_reserved_bytes(),
            num_recuts=self._changes.count,
            leak_bytes=leak,
            rungs=self.rungs.taken,
        )

    def _pieces(self, size: int) -> PieceSize:
        batch = self._task.batch
        most = min(self._task.spec.micro_batch or batch.rank_batch, batch.rank_batch)
        ceiling = max(batch.micro_batch, most)
        return PieceSize(size=size, ceiling=ceiling, target=self._options.target)

    def _attempt(self, work: Callable[[int], Result], size: int) -> Result | Shortage:
        try:
            return work(size)
        except OtherRankFailed:
            return Shortage("another rank ran out of memory", 0, is_other=True)
        except Exception as error:
            what = (str(error).splitlines() or [type(error).__name__])[0]
            if "more than 1 value per channel" in what and self._larger is not None:
                return Shortage(what, self._device.live_bytes(), is_single=True)
            if not self._device.is_out_of_memory(error):
                raise
            if not self._has_snapshot:
                self._has_snapshot = True
                keep_snapshot(self._device, self._task)
            return Shortage(what, self._device.live_bytes())

    def _clean_up(self, state: StepState) -> None:
        state.restore()
        self._device.release()

    def _wanted(self, failure: Shortage | None, room: Bytes | None) -> tuple[int, str]:
        """The next size as far as this rank can tell, 0 when there is none; and why."""
        piece = self._training
        if failure is not None:
            return 0 if failure.is_single else piece.smaller(room) or 0, ""
        piece.went_well()
        if piece.num_clean == 2 or piece.num_clean % _MEASURE_EVERY == 1:
            piece.measured(self._device.live_bytes(), self._device.peak_bytes())
        if self._spills():
            return piece.smaller(room_on(self._device)) or 1, _SPILLS
        if self._options.adapt and piece.may_grow and piece.num_clean % piece.grow_after == 0:
            larger = piece.larger(room_on(self._device))
            if larger is not None:
                return larger, f"{piece.num_clean} steps without a fault, and there is room"
        return piece.size, ""

    def _spills(self) -> bool:
        now, before = self._clock(), self._step_ended
        self._step_ended = now
        if before is None or not self._times.add(now - before):
            return False
        return self._device.torch_device != "cpu" and is_full(self._device.memory())

    def _repeat(self, size: int, failure: Shortage | None, room: Bytes | None) -> None:
        """Change to the size that all ranks agreed on, after one of them ran out."""
        what = "another rank ran out of memory" if failure is None else failure.what
        if failure is not None and not failure.is_single:
            what = failure.told("training", room)
        if size >= 1:
            self._change(size, what)
            return
        if failure is not None and failure.is_single and self._larger is not None:
            self._change(self._larger, what)  # the smallest pieces that the model can learn from
        self.give_up(what)

    def _change(self, size: int, why: str) -> None:
        self._changes.recut(self._training.size, size, why)
        self._larger = self._training.size if size < self._training.size else None
        self._training.become(size)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._times.clear()
        self._step_ended = None
        self._device.reset_peak()
