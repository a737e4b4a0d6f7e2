"""Traces and demands kept on disk by the content they depend on; damaged entries are made again."""

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from orchestrator.memory.creep import LabelledTrace, creeping_demand, label_counts
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.predict import installed_versions
from orchestrator.memory.replay import demand, footprint, known_demands
from orchestrator.plan.footprint import Demand, Footprint, Segments
from orchestrator.plan.workload import StepKind, Workload
from orchestrator.types import Bytes

__all__ = ["CachedPredictor", "TraceCache", "Tracer", "default_folder", "tracer_version"]

_MOST_BYTES: Bytes = 512 << 20
_ARRAYS = ("batches", "order", "low", "high", "part", "module", "most")
_DAMAGE = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


class Tracer(Protocol):
    """Traces a workload at two batches, wherever it may run torch."""

    def __call__(self, workload: Workload) -> LinearTrace:
        """Trace it.

        Raises:
            OrchestratorError: The workload cannot be predicted; says why.
        """
        ...


def default_folder() -> Path:
    """Where predictions are kept for this user, on this machine."""
    import platformdirs

    return platformdirs.user_cache_path("orchestrator") / "memory"


@cache
def tracer_version() -> str:
    """A hash of the source of everything that traces and replays."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class TraceCache:
    """Entries of a folder, each a file named by a hash of all that it depends on.

    Args:
        folder: Made when first written to.
        versions: Of the libraries and of the tracer: a change of either makes every entry new.
        most_bytes: Of all files together; beyond it those that were not used longest go.
    """

    def __init__(
        self, folder: Path, *, versions: str | None = None, most_bytes: Bytes = _MOST_BYTES
    ) -> None:
        self._folder = folder
        self._versions = versions or f"{installed_versions()} tracer={tracer_version()}"
        self._most_bytes = most_bytes

    def key(self, workload: Workload) -> str:
        """Names the entries of a workload; a model that is a file counts by its content."""
        model = Path(workload.model)
        content = hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else ""
        text = json.dumps([asdict(workload), content, self._versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def trace(self, key: str) -> LinearTrace | None:
        """The trace of that key, or None where there is none that can be read."""
        raw = self._read(key + ".npz")
        if raw is None:
            return None
        try:
            with np.load(io.BytesIO(_unsealed(raw)), allow_pickle=False) as found:
                rest = json.loads(bytes(found["rest"]))
                arrays = {name: found[name].astype(np.int64) for name in _ARRAYS}
        except _DAMAGE as error:
            self._damaged(key + ".npz", error)
            return None
        low, high = arrays.pop("batches").tolist()
        return LinearTrace(
            batches=(low, high),
            module_names=tuple(rest["modules"]),
            marks=tuple((name, position) for name, position in rest["marks"]),
            **arrays,
        )

    def keep_trace(self, key: str, trace: LinearTrace) -> None:
        """Write the trace of that key."""
        rest = json.dumps({"modules": trace.module_names, "marks": trace.marks}).encode()
        buffer = io.BytesIO()
        arrays = {name: np.asarray(getattr(trace, name)) for name in _ARRAYS}
        arrays["rest"] = np.frombuffer(rest, np.uint8)
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        self._write(key + ".npz", _sealed(buffer.getvalue()))

    def footprint(
        self, key: str, workload: Workload, segments: Segments = Segments.EXPANDABLE
    ) -> Footprint | None:
        """The demands known of that key, or None where there are none that can be read."""
        name = f"{key}-{segments}.json"
        raw = self._read(name)
        if raw is None:
            return None
        try:
            return _footprint(json.loads(_unsealed(raw)), workload, segments)
        except _DAMAGE as error:
            self._damaged(name, error)
            return None

    def keep_footprint(self, key: str, known: Footprint) -> None:
        """Write the demands of that key."""
        content = {
            "points": [
                [p.micro_batch, p.allocated_bytes, p.reserved_bytes, p.least_bytes]
                for p in known.points
            ],
            "parts": dict(known.parts),
            "modules": dict(known.modules),
        }
        self._write(f"{key}-{known.segments}.json", _sealed(json.dumps(content).encode()))

    def _read(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now: the last to go
        return raw

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all; a disk that refuses costs the cache, not the prediction."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(content)
            Path(file.name).replace(self._folder / name)
            self._prune()
        except OSError as error:
            _warn("a prediction is not kept", folder=str(self._folder), why=str(error))

    def _prune(self) -> None:
        files = [(path.stat(), path) for path in self._folder.iterdir()]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def _damaged(self, name: str, error: Exception) -> None:
        file = str(self._folder / name)
        _warn("a kept prediction is damaged and made again", file=file, why=str(error))


class CachedPredictor:
    """Answers from the cache, else from a kept trace, else by tracing; keeps what it finds.

    Args:
        kept: The cache.
        tracer: Traces what is not in it.
        segments: How the workers' allocator takes memory.
    """

    def __init__(
        self, kept: TraceCache, tracer: Tracer, *, segments: Segments = Segments.EXPANDABLE
    ) -> None:
        self._kept = kept
        self._tracer = tracer
        self._segments = segments
        self._known: dict[Workload, Footprint] = {}

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        """The footprint of each workload, with the micro-batches beside it among its points.

        Raises:
            OrchestratorError: E212x or E213x, a workload cannot be predicted; says why.
        """
        return [self._footprint(workload, sizes) for workload, sizes in asked]

    def trace(self, workload: Workload) -> LinearTrace:
        """The trace of a workload, from the cache if it is there.

        Raises:
            OrchestratorError: As `footprints`.
        """
        key = self._kept.key(workload)
        trace = self._kept.trace(key)
        if trace is None:
            trace = self._tracer(workload)
            self._kept.keep_trace(key, trace)
        return trace

    def _footprint(self, workload: Workload, sizes: Sequence[int]) -> Footprint:
        known = self._known.get(workload)
        if known is None:
            key = self._kept.key(workload)
            known = self._kept.footprint(key, workload, self._segments)
        if known is None or not set(sizes) <= set(known_demands(known)):
            demands = known_demands(known) if known is not None else {}
            wanted = sorted({*demands, *sizes})
            trace = self.trace(workload)
            known = footprint(
                workload,
                trace,
                wanted[-1],
                segments=self._segments,
                points=wanted,
                known=demands,
                demand_of=self._creeping(workload, trace),
            )
            self._kept.keep_footprint(self._kept.key(workload), known)
        self._known[workload] = known
        return known

    def _creeping(self, workload: Workload, trace: LinearTrace) -> Callable[[int], Demand] | None:
        """Demands that count the growth of the reserve in, where fixed segments make it grow."""
        labels = workload.labels
        if (
            self._segments is Segments.EXPANDABLE
            or workload.kind is not StepKind.TRAIN
            or labels is None
            or labels.most < 2
        ):
            return None
        half = replace(labels, most=labels.most // 2, mean=min(labels.mean / 2, labels.most // 2))
        pair = LabelledTrace(
            low=self.trace(replace(workload, labels=half)),
            high=trace,
            low_most=half.most,
            high_most=labels.most,
        )
        counts = label_counts(labels)

        def ask(batch: int) -> Demand:
            steady = demand(trace, batch, segments=self._segments)
            grown = creeping_demand(pair, batch, counts, segments=self._segments)
            return replace(
                steady,
                reserved_bytes=max(steady.reserved_bytes, grown.reserved_bytes),
                least_bytes=max(steady.least_bytes, grown.least_bytes),
            )

        return ask


def _sealed(content: bytes) -> bytes:
    """The content behind its hash."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _unsealed(raw: bytes) -> bytes:
    """What was sealed; ValueError where it is something else."""
    digest, _, content = raw.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its hash differs")
    return content


def _footprint(content: Any, workload: Workload, segments: Segments) -> Footprint:
    def bytes_by_name(name: str) -> Mapping[str, Bytes]:
        return {str(key): int(value) for key, value in content[name].items()}

    return Footprint(
        workload=workload,
        points=tuple(
            Demand(micro_batch=n, allocated_bytes=a, reserved_bytes=r, least_bytes=least)
            for n, a, r, least in content["points"]
        ),
        parts=bytes_by_name("parts"),
        modules=bytes_by_name("modules"),
        segments=segments,
    )


def _warn(what: str, **told: str) -> None:
    import structlog  # it takes a tenth of a second, and a sound cache needs none

    structlog.get_logger().warning(what, **told)
