"""The predictor of this machine: kept traces, and new ones made in a process of their own."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.process import trace_in_process
from orchestrator.plan.footprint import Footprint
from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["TracedPredictor"]

_PROCESSES = 2  # each takes a core and about 1 GB of host memory for 10 to 20 s


class TracedPredictor:
    """Implements `Predictor`; what it has to trace it traces two at a time.

    Args:
        folder: Where traces and demands are kept.
        note: Told, once, that something is traced, which takes seconds.
    """

    def __init__(self, folder: Path, *, note: Callable[[str], None] = lambda _: None) -> None:
        self._note = note
        self._has_noted = False
        self._kept = CachedPredictor(TraceCache(folder), self._trace)

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        """The footprint of each workload, with the micro-batches beside it among its points.

        Raises:
            OrchestratorError: E212x or E213x, a workload cannot be predicted; says why.
        """
        if len(asked) == 1:
            return self._kept.footprints(asked)
        with ThreadPoolExecutor(_PROCESSES) as pool:
            return list(pool.map(lambda each: self._kept.footprints([each])[0], asked))

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        """What holds the bytes at the peak, by part and by module, most first.

        Raises:
            OrchestratorError: As `footprints`.
        """
        trace = self._kept.trace(workload)
        sizes = trace.sizes(micro_batch)
        return trace.parts_at_peak(sizes), trace.modules_at_peak(sizes)

    def _trace(self, workload: Workload) -> LinearTrace:
        if not self._has_noted:
            self._has_noted = True
            self._note("predicting memory for the first time: takes about 10 s a model")
        return LinearTrace.of(*trace_in_process(workload))
