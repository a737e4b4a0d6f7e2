"""One process of the memory bench: a share of one part, a row a line as soon as it is known."""

import os

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as workers are given both

import fcntl
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand, largest
from orchestrator.plan.overheads import Overheads, overheads
from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes
from tests.gpu.memory_grid import BUDGETS, GIB, LABELS, Setting, settings

__all__ = ["PARTS", "Work", "room_on_card", "run_part"]

MOST_BATCH = 512


@dataclass(frozen=True, slots=True)
class Work:
    """What a process works with: a folder shared with others, and when to begin no more rows."""

    folder: Path
    deadline: float  # time.time()
    device: str = "cuda:0"

    def trace(self, workload: Workload) -> LinearTrace:
        """As the bench has kept it."""

        def missing(workload: Workload) -> LinearTrace:
            raise LookupError(f"{workload} was not traced")

        return CachedPredictor(TraceCache(self.folder / "traces"), missing).trace(workload)


@contextmanager
def room_on_card(folder: Path, gib: int) -> Iterator[None]:
    """Wait until other processes leave so many GiB; a process that dies leaves what it had.

    Each file named `room-*` stands for one GiB. One process looks at a time, so none waits for
    another that waits for it. Of a card smaller than what is asked for, all is taken.
    """
    left = sorted(folder.glob("room-*"))
    wanted = min(gib, len(left))
    with ExitStack() as held:
        with (folder / "gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for path in list(left):
                if wanted and _is_taken(path, held, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    left.remove(path)
                    wanted -= 1
            for path in left[:wanted]:
                _is_taken(path, held, fcntl.LOCK_EX)
        yield


def _is_taken(path: Path, held: ExitStack, how: int) -> bool:
    """Lock a file until `held` is left, if that can be done as it is asked for."""
    file = path.open("a")
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        file.close()
        return False
    held.enter_context(file)
    return True


@contextmanager
def held_to(num_bytes: Bytes | None) -> Iterator[None]:
    """Hold torch's reserve to so many bytes, and leave the card empty."""
    total = torch.cuda.get_device_properties(0).total_memory
    share = 1.0 if num_bytes is None else min(1.0, num_bytes / total)
    torch.cuda.set_per_process_memory_fraction(share)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


@cache
def _steps(workload: Workload) -> Any:
    from orchestrator.memory.trace import steps_of

    return steps_of(workload)


def really_run(setting: Setting, built: Any, device: str) -> None:
    """Perform two steps of what was built; its memory is free again afterwards."""
    from orchestrator.memory.answers import Answers
    from orchestrator.memory.stage import Stage

    workload = setting.workload
    stage = Stage(torch.device(device), Answers(labels=workload.labels, batch=setting.batch))
    alive = _steps(workload).perform(stage, built, setting.batch)
    if stage.device.type == "cuda":
        torch.cuda.synchronize()
    del alive


def built_for(workload: Workload) -> Any:
    """A model with first weights, on the host, which takes seconds and no room on the card."""
    return _steps(workload).build(is_fake=False)


def card_overheads() -> Overheads:
    """Of the card at hand, as the plan counts them."""
    from orchestrator.device.catalogue import find_card

    return overheads(find_card(torch.cuda.get_device_name(0)).architecture)


def error_rows(work: Work, share: int, of: int) -> Iterator[dict[str, Any]]:
    """Predicted and measured peaks of every setting that the card holds."""
    about = card_overheads()
    for setting in settings()[share::of]:
        asked = demand(work.trace(setting.workload), setting.batch)
        predicted = about.likely_bytes(asked) - about.outside_bytes
        row = {**_named(setting), "predicted_bytes": predicted}
        row["predicted_allocated_bytes"] = asked.allocated_bytes
        built = [built_for(setting.workload)]
        with room_on_card(work.folder, -(-predicted * 5 // 4 // GIB)), held_to(None):
            try:
                really_run(setting, built.pop(), work.device)
                row["reserved_bytes"] = torch.cuda.max_memory_reserved()
                row["allocated_bytes"] = torch.cuda.max_memory_allocated()
                row["error"] = predicted / row["reserved_bytes"] - 1
            except torch.OutOfMemoryError as error:
                row["out_of_memory"] = str(error).splitlines()[0]
        yield row


def budget_rows(work: Work, share: int, of: int) -> Iterator[dict[str, Any]]:
    """Twenty settings under each budget, at the largest batch that was planned to fit."""
    about = card_overheads()
    for setting, gib in product(settings()[::3][share::of], BUDGETS):
        trace = work.trace(setting.workload)
        batch = largest(trace, about.capacity(gib * GIB), at_most=MOST_BATCH)
        row: dict[str, Any] = {**_named(replace(setting, batch=batch)), "budget_gib": gib}
        if batch:
            # otherwise the bench, not the budget, set the batch
            row["is_limited"] = batch < MOST_BATCH
            row |= _launched(work, replace(setting, batch=batch), gib, about.outside_bytes)
        yield row


def autobatch_rows(work: Work, share: int, of: int) -> Iterator[dict[str, Any]]:
    """What ultralytics' AutoBatch chooses for the detectors, and whether that then trains."""
    from ultralytics.utils.autobatch import check_train_batch_size

    about = card_overheads()
    detectors = [
        s for s in settings()[::3] if s.workload.trainer == "yolo" and s.workload.task != "classify"
    ]
    for setting, gib in product(detectors[share::of], BUDGETS):
        built = [built_for(setting.workload)]
        begin = time.perf_counter()
        with (
            room_on_card(work.folder, gib),
            held_to(gib * GIB - about.outside_bytes),
            as_card_of(gib * GIB, about.outside_bytes),
        ):
            try:
                batch = check_train_batch_size(
                    built.pop().model.to(work.device), setting.workload.imgsz,
                    amp=setting.workload.precision != "fp32", max_num_obj=LABELS.most,
                )  # fmt: skip
            except RuntimeError as error:  # no batch at all
                yield {**_named(replace(setting, batch=0)), "budget_gib": gib, "why": str(error)}
                continue
        seconds = time.perf_counter() - begin
        chosen = replace(setting, batch=int(batch))
        row = {**_named(chosen), "budget_gib": gib, "seconds": seconds}
        yield row | _launched(work, chosen, gib, about.outside_bytes)


def recovery_rows(work: Work, share: int, of: int) -> Iterator[dict[str, Any]]:
    """What running out once costs, in steps: the step that is cut, less one that is cut anyway."""
    from jobs.yolo_link import QuietLink, task_of
    from orchestrator.device import nvml
    from orchestrator.device.cuda import CudaDevice
    from orchestrator.trainer.classifier import make_model
    from orchestrator.trainer.governor import Governor
    from orchestrator.trainer.learner import Learner
    from orchestrator.trainer.options_memory import MemoryOptions
    from orchestrator.trainer.options_timm import TimmOptions

    for model, size in [("resnet50", 64), ("efficientnet_b0", 64), ("vit_small_patch16_224", 64)][
        share::of
    ]:
        with tempfile.TemporaryDirectory() as name, room_on_card(work.folder, 12), held_to(None):
            folder = Path(name)
            task = task_of(folder, folder, f"timm/{model}", epochs=1, imgsz=224, batch=size)
            device = CudaDevice(nvml.cards()[0], 12 * GIB)
            with device.session():
                governor = Governor(task, device, QuietLink(folder), MemoryOptions())
                governor.epoch_begins(1)
                learner = Learner(
                    make_model(task.spec.settings, TimmOptions(), 10).to(work.device),
                    task.spec.settings, TimmOptions(), device=torch.device(work.device),
                    micro_batch=size, steps_per_epoch=1000, governor=governor,
                )  # fmt: skip
                batch = torch.randn(size, 3, 224, 224), torch.randint(0, 10, (size,))
                yield {"model": model, "batch": size} | _recovered(partial(learner.learn, batch))


def _recovered(step: Callable[[], object]) -> dict[str, Any]:
    """Seconds of steps before, of the one for which room is taken away, and of those after."""
    before = [_timed(step) for _ in range(10)][5:]
    live, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((live + (peak - live) // 2) / total)
    struck = _timed(step)
    after = statistics.median([_timed(step) for _ in range(10)][5:])
    usual = statistics.median(before)
    return {
        "step_seconds": usual,
        "struck_seconds": struck,
        "after_seconds": after,
        "lost_steps": max(struck - after, 0.0) / usual,
    }


def _timed(step: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def _launched(work: Work, setting: Setting, gib: int, outside: Bytes) -> dict[str, Any]:
    """Whether a setting runs out under a budget, and how much of the budget it uses."""
    built = [built_for(setting.workload)]
    row: dict[str, Any] = {"out_of_memory": False}
    with room_on_card(work.folder, gib), held_to(gib * GIB - outside):
        try:
            really_run(setting, built.pop(), work.device)
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        row["use"] = (torch.cuda.max_memory_reserved() + outside) / (gib * GIB)
    return row


class _Smaller:
    """The properties of a card, but for its memory."""

    def __init__(self, real: Any, total: Bytes) -> None:
        self._real = real
        self.total_memory = total

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def as_card_of(total: Bytes, outside: Bytes) -> Iterator[None]:
    """torch says that the card has so many bytes; what others hold of the real one is not told."""
    properties, free = torch.cuda.get_device_properties, torch.cuda.mem_get_info

    def left(device: Any = None) -> tuple[int, int]:
        return max(total - outside - torch.cuda.memory_reserved(device), 0), total

    cuda: Any = torch.cuda
    cuda.get_device_properties = lambda device=None: _Smaller(properties(device), total)
    cuda.mem_get_info = left
    try:
        yield
    finally:
        cuda.get_device_properties = properties
        cuda.mem_get_info = free


def _named(setting: Setting) -> dict[str, Any]:
    workload = setting.workload
    keys = ("model", "imgsz", "precision", "optimizer")
    return {key: getattr(workload, key) for key in keys} | {"batch": setting.batch}


_Rows = Callable[[Work, int, int], Iterator[dict[str, Any]]]
PARTS: Mapping[str, _Rows] = {
    "error": error_rows,
    "budgets": budget_rows,
    "autobatch": autobatch_rows,
    "recovery": recovery_rows,
}


def run_part(rows: Iterator[dict[str, Any]], out: Path, deadline: float) -> int:
    """Write rows until there are no more or the time is up; returns how many."""
    count = 0
    with out.open("a", encoding="utf-8") as file:
        while time.time() < deadline and (row := next(rows, None)) is not None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            count += 1
    return count


def main(given: Sequence[str]) -> int:
    """PART SHARE OF FOLDER DEADLINE."""
    part, share, of, folder, deadline = given
    work = Work(Path(folder), float(deadline))
    rows = PARTS[part](work, int(share), int(of))
    run_part(rows, work.folder / f"{part}-{share}.jsonl", work.deadline)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
