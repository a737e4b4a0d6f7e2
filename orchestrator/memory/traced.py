"""The predictor of this machine: kept traces, and new ones made in a process of their own."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.events import StepTrace
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.process import trace_all, trace_in_process
from orchestrator.plan.footprint import Footprint
from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["TracedPredictor"]

_MOST_PROCESSES = 8  # each takes a core and about 1 GB of host memory for 10 to 20 s


class TracedPredictor:
    """Implements `Predictor`; what it has to trace it traces side by side, on all cores but one.

    Args:
        folder: Where traces and demands are kept.
        note: Told, once, that something is traced, which takes seconds.
        server: Path of a fork server whose processes have torch already.
    """

    def __init__(
        self,
        folder: Path,
        *,
        note: Callable[[str], None] = lambda _: None,
        server: str | None = None,
    ) -> None:
        self._note = note
        self._server = server
        self._has_noted = False
        self._cache = TraceCache(folder)
        self._kept = CachedPredictor(self._cache, self._trace)
        self._seen: set[Workload] = set()
        self._found: dict[Workload, tuple[StepTrace, StepTrace] | OrchestratorError] = {}

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        """The footprint of each workload, with the micro-batches beside it among its points.

        Raises:
            OrchestratorError: E212x or E213x, a workload cannot be predicted; says why.
        """
        self._trace_together([workload for workload, _ in asked])
        return self._kept.footprints(asked)

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        """What holds the bytes at the peak, by part and by module, most first.

        Raises:
            OrchestratorError: As `footprints`.
        """
        trace = self._kept.trace(workload)
        sizes = trace.sizes(micro_batch)
        parts = dict(trace.parts_at_peak(sizes))
        del parts["scratch"]  # which is not among the live bytes
        return parts, trace.modules_at_peak(sizes)

    def _trace_together(self, workloads: Sequence[Workload]) -> None:
        """Trace what is not kept, in as few processes as there are cores for it.

        A process costs its imports, 3 to 5 s, however many workloads it traces.
        """
        new = [each for each in dict.fromkeys(workloads) if not self._is_kept(each)]
        if len(new) < 2:
            return
        self._say()
        parts = _parts(new, min(max(1, (os.cpu_count() or 1) - 1), _MOST_PROCESSES))
        trace = partial(trace_all, server=self._server)
        with ThreadPoolExecutor(len(parts)) as pool:
            for part, found in zip(parts, pool.map(trace, parts), strict=True):
                self._found.update(zip(part, found, strict=True))

    def _is_kept(self, workload: Workload) -> bool:
        if workload not in self._seen and workload not in self._found:
            if self._cache.footprint(self._cache.key(workload), workload) is None:
                return False
            self._seen.add(workload)
        return True

    def _trace(self, workload: Workload) -> LinearTrace:
        found = self._found.get(workload)
        if found is None:
            self._say()
            found = trace_in_process(workload, server=self._server)
        if isinstance(found, OrchestratorError):
            raise found
        return LinearTrace.of(*found)

    def _say(self) -> None:
        if not self._has_noted:
            self._has_noted = True
            self._note("predicting memory for the first time: takes about 10 s a model")


def _parts(workloads: Sequence[Workload], most: int) -> list[list[Workload]]:
    """Lists of about one length, at most so many, each of as few libraries as possible."""
    ordered = sorted(workloads, key=lambda workload: (workload.trainer, workload.model))
    size = -(-len(ordered) // most)
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]
