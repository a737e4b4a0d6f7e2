"""Turns what pydantic found into errors that name the field, the value, the range, the remedy."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from orchestrator.config.yaml import KeyPath, path_text, shown
from orchestrator.errors import ConfigError

__all__ = ["Problem", "nearest", "path_in", "problems_of", "raise_problems", "unknown_key"]

_SAYINGS: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "dict_type": "must be a block of keys",
    "model_type": "must be a block of keys",
    "list_type": "must be a list",
    "tuple_type": "must be a name or a list of names",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "value_error": "{error}",
}

_ELSEWHERE: Mapping[str, str] = {  # what other tools and other blocks call our keys
    "lr": "lr0",
    "learning_rate": "lr0",
    "batch_size": "batch",
    "batchsize": "batch",
    "effective_batch": "batch",
    "img_size": "imgsz",
    "image_size": "imgsz",
    "num_workers": "workers",
    "num_epochs": "epochs",
    "opt": "optimizer",
    "precision": "amp",
    "early_stopping": "patience",
    "gpus": "resources.gpus",
    "gpu_type": "resources.gpu_type",
    "labels": "resources.labels",
    "label_selector": "resources.labels",
    "node_selector": "resources.labels",
    "headroom": "resources.headroom",
    "ladder": "memory.ladder",
    "predict": "memory.predict",
    "least_imgsz": "memory.least_imgsz",
    "adapt": "memory.adapt",
    "target": "memory.target",
    "cpus": "resources.cpus",
    "ram": "resources.ram",
    "priority": "schedule.priority",
    "queue": "schedule.queue",
    "bucket_cap_mb": "ddp.bucket_mb",
    "bucket_mb": "ddp.bucket_mb",
    "compression": "ddp.compression",
    "nccl": "ddp.nccl",
    "max_duration": "schedule.max_duration",
    "hang_after": "schedule.hang_after",
    "nodes": "resources.nodes",
    "retry": "schedule.retry",
    "min_vram": "memory",
    "emulate": "cluster.emulate",
    "address": "cluster.address",
}


class Problem:
    """One thing that is wrong, ready to be said."""

    __slots__ = ("code", "fix", "text")

    def __init__(self, text: str, *, code: str, fix: str = "") -> None:
        self.text = text
        self.code = code
        self.fix = fix


def nearest(word: str, known: Collection[str], count: int = 3) -> tuple[str, ...]:
    """The known words most like `word`, best first."""
    ordered = sorted(known)
    close = difflib.get_close_matches(word[:80].lower(), ordered, n=count, cutoff=0.5)
    return tuple(close or difflib.get_close_matches(word[:80].lower(), ordered, n=1, cutoff=0.0))


def unknown_key(path: str, where: str, word: str, known: Collection[str]) -> Problem:
    """The problem of a key that nobody knows, with the nearest ones."""
    close = nearest(word, known)
    if meant := _ELSEWHERE.get(word.lower()):
        close = (meant, *(key for key in close if key != meant))
    return Problem(
        f"{path} is not a known key ({where})",
        code="E1010",
        fix=f"the nearest: {', '.join(close)}" if close else "",
    )


def problems_of(
    errors: Sequence[Mapping[str, Any]],
    place: Callable[[KeyPath], tuple[str, str]],
    known: Callable[[KeyPath], Collection[str]],
) -> list[Problem]:
    """Say each pydantic error.

    Args:
        errors: `ValidationError.errors()`.
        place: From a key path to the path as people wrote it and the place of writing.
        known: From a key path to the keys that are known beside it.
    """
    problems = []
    for error in errors:
        path: KeyPath = tuple(error["loc"])
        text, where = place(path)
        if error["type"] == "extra_forbidden":
            problems.append(unknown_key(text, where, str(path[-1]), known(path)))
        elif error["type"] == "missing":
            problems.append(
                Problem(
                    f"{text} is missing ({where})",
                    code="E1012",
                    fix=f"add {path[-1]}: ...",
                )
            )
        else:
            given = shown(_given(error["input"]))
            code = "E1013" if path and path[-1] == "name" else "E1011"
            problems.append(Problem(f"{text} {_saying(error)}, not {given} ({where})", code=code))
    return problems


def _given(value: object) -> str:
    if value is None:
        return "empty"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)[:200]


def _saying(error: Mapping[str, Any]) -> str:
    saying = _SAYINGS.get(error["type"])
    return saying.format(**error.get("ctx", {})) if saying else str(error["msg"])


def raise_problems(problems: Sequence[Problem], at_most: int = 12) -> None:
    """Raise one ConfigError for all of them, the first as its headline; none, no error."""
    if not problems:
        return
    first, *rest = {problem.text: problem for problem in problems}.values()
    why = [f"also: {problem.text}" for problem in rest[:at_most]]
    if len(rest) > at_most:
        why.append(f"and {len(rest) - at_most} more")
    fix = [problem.fix for problem in problems[: at_most + 1] if problem.fix]
    raise ConfigError(first.text, code=first.code, why=why, fix=tuple(dict.fromkeys(fix)))


def path_in(base: str, path: KeyPath) -> str:
    """`path` below a base that is already text."""
    tail = path_text(path)
    return f"{base}.{tail}" if base and tail and not tail.startswith("[") else base + tail
