"""How the command speaks: tables and JSON on stdout, messages and errors on stderr."""

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from orchestrator.errors import OrchestratorError

__all__ = [
    "SCHEMA_VERSION",
    "clock_text",
    "columns",
    "emit",
    "emit_json",
    "error_object",
    "has_colour",
    "is_lively",
    "say",
    "show_crash",
    "show_error",
    "size_text",
    "span_text",
    "stamp_text",
]

SCHEMA_VERSION = 1


def has_colour(stream: TextIO) -> bool:
    """True when the stream is a terminal that nobody asked to keep plain (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def is_lively(stream: TextIO) -> bool:
    """True when progress bars may be drawn: a terminal, outside CI, and not switched off."""
    quiet = any(os.environ.get(name) for name in ("NO_COLOR", "CI", "ORC_NO_PROGRESS"))
    return stream.isatty() and not quiet and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """A message for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command's voice


def emit(text: str) -> None:
    """Data, on stdout."""
    print(text, flush=True)  # noqa: T201 - this is the command's voice


def emit_json(**values: Any) -> None:
    """One JSON object on stdout, with the version of its schema first."""
    emit(json.dumps({"schema_version": SCHEMA_VERSION, **values}, default=_plain, indent=2))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else repr(value)


def error_object(error: OrchestratorError) -> dict[str, Any]:
    """An error as `--json` tells it."""
    return {
        "code": error.code,
        "title": error.what,
        "why": list(error.why),
        "fix": list(error.fix),
        "exit_code": error.exit_code,
    }


def show_error(error: OrchestratorError, *, as_json: bool, verbose: bool) -> int:
    """Say what happened, why, and what to do; returns the exit code."""
    if as_json:
        emit_json(error=error_object(error))
    else:
        mark = f"error[{error.code}]"
        say(f"{_red(mark)}: {error.what}")
        for word, lines in (("why", error.why), ("fix", error.fix)):
            for number, line in enumerate(lines):
                say(f"  {word if number == 0 else '   '}   {line}")
    if verbose:
        say("".join(traceback.format_exception(error)).rstrip())
    return error.exit_code


def _red(text: str) -> str:
    return f"\x1b[1;31m{text}\x1b[0m" if has_colour(sys.stderr) else text


def show_crash(error: BaseException, home: Path, *, as_json: bool, verbose: bool) -> int:
    """An error that nobody foresaw: the traceback goes into a file, its path to the person."""
    trace = "".join(traceback.format_exception(error))
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = home / "logs" / f"error-{stamp}-{os.getpid()}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{' '.join(sys.argv)}\n\n{trace}", encoding="utf-8")
        where = f"the traceback is in {path}"
    except OSError as failure:
        where = f"the traceback could not be written to {path}: {failure.strerror}"
    first = (str(error).splitlines() or [""])[0][:200]
    told = OrchestratorError(
        f"a bug in orchestrator: {type(error).__name__}: {first}",
        code="E9000",
        why=(where,),
        fix=("please report it with that file; orc resume goes on with unfinished runs",),
    )
    show_error(told, as_json=as_json, verbose=False)
    if verbose:
        say(trace.rstrip())
    return told.exit_code


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of plain text, columns two spaces apart, no trailing spaces."""
    lines = [tuple(map(str, row)) for row in ([*head], *rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    # One format for all: a table of thousands of lines is made in a third of the time.
    shape = "  ".join(f"%-{width}s" for width in widths)
    return "\n".join([(shape % line).rstrip() for line in lines])


def size_text(num_bytes: float) -> str:
    """Bytes for people: `3.4 GiB`."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def span_text(seconds: float) -> str:
    """A duration for people: `48 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def clock_text(at: float) -> str:
    """Local time of day of a Unix time: `12:04:11`."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")


def stamp_text(at: float) -> str:
    """Local date and time of a Unix time: `2026-11-21 12:04:11`."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
