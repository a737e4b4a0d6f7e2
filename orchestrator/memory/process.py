"""Traces in a process of their own: `python -m orchestrator.memory.process`.

Tracing changes torch, and a model may take its process down with it. Standard input is a JSON list
of workloads; standard output one line of JSON a workload, the pair of traces or the error.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from orchestrator.cluster.forked import run_forked
from orchestrator.cluster.leaving import leave
from orchestrator.errors import OrchestratorError
from orchestrator.memory.events import Birth, Event, StepTrace
from orchestrator.plan.workload import Labels, OptimizerState, StepKind, Workload
from orchestrator.trainer.yolo_settings import environment
from orchestrator.types import Seconds

__all__ = ["trace_all", "trace_in_process"]

Pair = tuple[StepTrace, StepTrace]
_SECONDS = 300.0  # of one workload; the slowest known takes 40


def trace_in_process(
    workload: Workload, *, timeout: Seconds = _SECONDS, server: str | None = None
) -> Pair:
    """`trace.trace_pair` in a process of its own, of the fork server at `server` if there is one.

    Raises:
        OrchestratorError: E2130 an operator that cannot be traced, E2131 memory that is not
            linear in the batch, E2132 the process died or took longer than `timeout` seconds.
        ConfigError: The workload is not possible.
    """
    (found,) = trace_all([workload], timeout=timeout, server=server)
    if isinstance(found, OrchestratorError):
        raise found
    return found


def trace_all(
    workloads: Sequence[Workload], *, timeout: Seconds = _SECONDS, server: str | None = None
) -> list[Pair | OrchestratorError]:
    """Trace several workloads in one process, one after the other; `timeout` is for each.

    An error takes the place of the pair that it prevented; what comes after a death of the process
    or a time-out has that error, too.
    """
    with tempfile.TemporaryDirectory(prefix="orc-trace-") as folder:
        text = json.dumps([asdict(workload) for workload in workloads])
        why: tuple[str, ...]
        try:
            done = _run(text, folder, timeout * max(1, len(workloads)), server)
            lines, why = done.stdout.splitlines(), _last_words(done.returncode, done.stderr)
        except subprocess.TimeoutExpired as expired:
            out = expired.stdout or b""
            said = out.decode() if isinstance(out, bytes) else out
            lines = said.splitlines(keepends=True)
            lines = [line for line in lines if line.endswith("\n")]  # not the one that was cut off
            why = (f"it took longer than {timeout * len(workloads):.0f} s",)
    found: list[Pair | OrchestratorError] = [_read(json.loads(line)) for line in lines]
    found += [_died(workload, why) for workload in workloads[len(found) :]]
    return found


def _run(
    text: str, folder: str, timeout: Seconds, server: str | None
) -> "subprocess.CompletedProcess[str]":
    words = ["-m", "orchestrator.memory.process"]
    environment = os.environ | _environment(folder)
    if server is not None:
        with suppress(OSError):  # it has ended
            return run_forked(
                server, words, text=text, environment=environment, folder=folder, timeout=timeout
            )
    return subprocess.run(  # noqa: S603 - this program itself
        [sys.executable, *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=environment,
        cwd=folder,
    )


def _environment(folder: str) -> dict[str, str]:
    return environment(folder) | {
        "CUDA_VISIBLE_DEVICES": "",  # a card must not be touched, nor asked
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _last_words(code: int, errors: str) -> tuple[str, ...]:
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    return (f"it ended with {code}", *((last[:300],) if last else ()))


def _died(workload: Workload, why: tuple[str, ...]) -> OrchestratorError:
    return OrchestratorError(
        f"the memory of {workload.model} could not be predicted: the process that traces it died",
        code="E2132",
        why=why,
        fix=("give memory in the config, or let a short trial run measure it",),
    )


def _workload(row: Mapping[str, Any]) -> Workload:
    labels = row["labels"]
    return Workload(
        **{
            **row,
            "kind": StepKind(row["kind"]),
            "optimizer_state": OptimizerState(row["optimizer_state"]),
            "labels": None if labels is None else Labels(**labels),
            "options": tuple((name, value) for name, value in row["options"]),
        }
    )


def _form(trace: StepTrace) -> dict[str, Any]:
    events = [
        [e.storage, e.num_bytes, e.part, e.module, e.op, e.most] if isinstance(e, Birth) else e
        for e in trace.events
    ]
    return {"batch": trace.batch, "events": events, "marks": trace.marks}


def _trace(form: Mapping[str, Any]) -> StepTrace:
    events: list[Event] = [e if isinstance(e, int) else Birth(*e) for e in form["events"]]
    marks = tuple((str(name), int(position)) for name, position in form["marks"])
    return StepTrace(batch=form["batch"], events=tuple(events), marks=marks)


def _read(answer: Mapping[str, Any]) -> Pair | OrchestratorError:
    if "error" in answer:
        import orchestrator.errors

        about = dict(answer["error"])
        kind: type[OrchestratorError] = getattr(orchestrator.errors, about.pop("kind"))
        return kind(about.pop("what"), **about)
    first, second = (_trace(form) for form in answer["traces"])
    return first, second


def _answers(workloads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    import torch

    from orchestrator.memory.slim import make_slim

    torch.set_num_threads(1)
    make_slim()
    from orchestrator.memory.fake import Memory
    from orchestrator.memory.trace import trace_pair

    memory = Memory()
    for number, workload in enumerate(workloads):
        if number:
            gc.collect()  # which is off
        try:
            yield {"traces": [_form(trace) for trace in trace_pair(workload, memory=memory)]}
        except OrchestratorError as error:
            kind = type(error).__name__
            yield {
                "error": {
                    "kind": kind,
                    "what": error.what,
                    "code": error.code,
                    "why": error.why,
                    "fix": error.fix,
                }
            }


def _main(given: TextIO) -> None:
    gc.disable()  # what is imported is no garbage
    workloads = [_workload(row) for row in json.load(given)]
    # Libraries print; what they print is not the answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for answer in _answers(workloads):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    _main(sys.stdin)
    leave(0)  # who asked waits for the end
