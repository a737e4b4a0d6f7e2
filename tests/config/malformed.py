"""Wrong configs, generated one field at a time, with what the message has to name."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Wrong", "wrong_configs"]

HEAD = "projects:\n  - name: cells\n    model: yolo11n.yaml\n    data: made:digits-detect\n"

# Values that no key of the kind takes.
NOT_WHOLE = ("1.5", "ten", '"3"', "true", "[1]", "{a: 1}", "-3", "1e40", "99999999999999999999")
NOT_NUMBERS = ("fast", '"0.1"', "true", "[0.1]", "{a: 1}", "-1", ".nan", ".inf", "1e400")
NOT_TEXT = ("3", "true", "[a]", "{a: 1}", '""', '"a\\tb"', '"a\\0b"')
NOT_WORDS = ("fp8", "3", "[fp16]", "{a: 1}", '"FP16 "')

WHOLE = ("imgsz", "batch", "micro_batch", "epochs", "patience", "workers", "seed")
NEAR = {  # what people type, and what they mean
    "epoch": "epochs",
    "learning_rate": "lr0",
    "lr": "lr0",
    "batchsize": "batch",
    "img_size": "imgsz",
    "optimiser": "optimizer",
    "worker": "workers",
    "modell": "model",
    "resource": "resources",
    "shedule": "schedule",
    "microbatch": "micro_batch",
    "mosiac": "mosaic",
    "flip_lr": "fliplr",
    "weightdecay": "weight_decay",
}
NEAR_IN_BLOCK = {
    ("resources", "gpu"): "gpus",
    ("resources", "memroy"): "memory",
    ("resources", "gputype"): "gpu_type",
    ("memory", "adpat"): "adapt",
    ("memory", "targte"): "target",
    ("schedule", "prio"): "priority",
    ("schedule", "max_time"): "max_duration",
    ("schedule", "retries"): "retry",
}
NAMES = (
    "..",
    "../up",
    "a/b",
    "a..b",
    "Cells",
    "-cells",
    ".cells",
    "z\u00e4hler",
    "\u7d30\u80de",
    "a b",
    "a%2eb",
    "x" * 64,
    "resources",
    '"a\\0b"',
    '""',
    "3",
    "null",
    "[a]",
    "cells.",
)
BLOCKS = (
    ("resources", "gpus", ("0", "-1", "two", "1.5", "100000", "4-1", "0-2", "1-", "1-9999")),
    ("resources", "memory", ("8", "8 gigs", "1KiB", "-8GiB", "99999999TiB", "[8GiB]", "true")),
    ("resources", "gpu_type", ("3", "[RTX 9999]", "{a: 1}", "RTX 409O")),
    ("resources", "labels", ("zone", "[a]", "{a: [b]}", '{a: "in("}', '{a: "b c"}', "{a: true}")),
    ("resources", "cpus", ("many", "-1", "[1]", "1e9")),
    ("resources", "ram", ("0", "16", "-1GiB", "0GiB", "1KiB", "lots", "99TiB", "true", "[1GiB]")),
    ("memory", "adapt", ("1", "maybe", "[true]", '"true"')),
    ("memory", "target", ("0", "0.05", "1.01", "85%", "[0.5]", "true", "-0.5")),
    ("schedule", "priority", ("high", "1.5", "10000", "true")),
    ("schedule", "queue", ("../up", "A", "3", "[a]")),
    ("schedule", "max_duration", ("tomorrow", "0", "-5", "[6h]", "1e30", "6 h")),
    ("schedule", "retry", ("often", "-1", "1.5", "[1]")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A config, and words that the error must have (the field's path, the nearest key)."""

    text: str
    words: tuple[str, ...] = ()
    name: str = ""


def wrong_configs() -> Iterator[Wrong]:
    """Every wrong config, a few hundred."""
    yield from _fields()
    yield from _keys()
    yield from _blocks()
    yield from _names()
    yield from _shapes()


def _field(key: str, value: str, *words: str) -> Wrong:
    lines = [line for line in HEAD.splitlines() if not line.strip(" -").startswith(f"{key}:")]
    text = "\n".join([*lines, f"    {key}: {value}", ""])
    if not lines[1].startswith("  - "):
        text = text.replace("    model", "  - model", 1)
    return Wrong(text=text, words=words, name=f"{key}: {value}")


def _fields() -> Iterator[Wrong]:
    words = ("amp", "cache", "optimizer", "trainer")
    for keys, values in (
        (WHOLE, NOT_WHOLE),
        (("lr0",), NOT_NUMBERS),
        (words, NOT_WORDS),
        (("model", "data"), NOT_TEXT),
    ):
        yield from (_field(k, v, _path(k, v)) for k in keys for v in values)
    for value in ("0", "[0, 1]", "cuda:0", "mps", '"0,1"', "true"):
        yield _field("device", value, "projects[0].device", "resources.gpus")
    for value in ("{min: 16, max: 64}", "-1", "auto"):
        yield _field("batch", value, "projects[0].batch")
    yield _field("imgsz", "650", "projects[0].imgsz", "640 or 672")
    yield _field("micro_batch", "17", "projects[0].micro_batch", "16")
    yield _field("freeze", "[0, 1]", "projects[0].freeze")


def _path(key: str, value: str) -> str:
    """Numbers that are not finite and raw control characters are refused by the reader itself."""
    unreadable = value in {".nan", ".inf", "1e400", "99999999999999999999"}
    return "wrong.yaml:5" if unreadable else f"projects[0].{key}"


def _keys() -> Iterator[Wrong]:
    for typed, meant in NEAR.items():
        yield _field(typed, "1", f"projects[0].{typed}", meant)
    for (block, typed), meant in NEAR_IN_BLOCK.items():
        yield _field(block, f"{{{typed}: 1}}", f"projects[0].{block}.{typed}", meant)
    yield _field("schedule", "{retry: {user_error: 1}}", "schedule.retry.user_error", "user_errors")
    for key in ("nbs", "time", "resume", "project", "exist_ok", "task", "save_period", "compile"):
        yield _field(key, "1", f"projects[0].{key}")
    for key in ("model", "data", "name"):
        lines = [line for line in HEAD.splitlines() if f"{key}:" not in line]
        lines[1] = "  - " + lines[1].strip(" -")
        yield Wrong(text="\n".join(lines), words=(f"projects[0].{key}",), name=f"no {key}")


def _blocks() -> Iterator[Wrong]:
    for block, key, values in BLOCKS:
        for value in values:
            yield _field(block, f"{{{key}: {value}}}", f"projects[0].{block}.{key}")
    for block in ("resources", "memory", "schedule"):
        for value in ("3", "[a]", "yes", "text"):
            yield _field(block, value, f"projects[0].{block}")
    for value in ("3", "[a]", "text"):
        yield Wrong(text=f"cluster: {value}\n{HEAD}", words=("cluster",), name=f"cluster {value}")
    yield Wrong(text=f"cluster: {{emulate: [RTX 2061]}}\n{HEAD}", words=("cluster.emulate",))
    yield Wrong(text=f"cluster: {{emulated: [a]}}\n{HEAD}", words=("cluster.emulated", "emulate"))
    yield Wrong(text=f"cluster: {{address: 3}}\n{HEAD}", words=("cluster.address",))
    yield Wrong(text=f"runs: 3\n{HEAD}", words=("runs",))


def _names() -> Iterator[Wrong]:
    for name in NAMES:
        text = HEAD.replace("cells", name)
        yield Wrong(text=text, words=("projects[0].name",), name=f"name {name!a}")
    second = HEAD.removeprefix("projects:\n")
    yield Wrong(text=HEAD + second, words=("cells", "twice", "cells-2"), name="a name twice")


def _shapes() -> Iterator[Wrong]:
    line = "wrong.yaml:"
    whole = {
        "nothing": ("", "project"),
        "a list": ("- a\n- b\n", "keys"),
        "a word": ("hello\n", "keys"),
        "a number": ("3\n", "keys"),
        "no projects": ("projects: []\n", "project"),
        "null projects": ("projects:\n", "projects"),
        "projects as a block": ("projects: {a: 1}\n", "projects"),
        "a project as a word": ("projects: [a]\n", "projects[0]"),
        "defaults as a list": (f"defaults: [a]\n{HEAD}", "defaults"),
        "a wrong default": (f"defaults: {{epochs: no way}}\n{HEAD}", "defaults.epochs"),
        "a stray key": (f"epochs: 3\n{HEAD}", "epochs"),
        "an unknown top key": (f"project: []\n{HEAD}", "projects"),
        "alone, unknown key": ("model: yolo11n.yaml\ndata: d\nepoch: 3\n", "epochs"),
        "alone, no data": ("model: yolo11n.yaml\n", "data"),
        "an alias": (f"defaults: &d {{epochs: 3}}\n{HEAD}    <<: *d\n", line),
        "a merge": (f"{HEAD}    <<: {{epochs: 3}}\n", "projects[0].<<"),
        "a key twice": (f"{HEAD}    epochs: 3\n    epochs: 4\n", "projects[0].epochs"),
        "a tag": (f"{HEAD}    epochs: !!python/object/apply:os.system [id]\n", line),
        "a tab": (f"{HEAD}\tepochs: 3\n", line),
        "an open bracket": (f"{HEAD}    gpus: [1, 2\n", line),
        "two documents": (f"{HEAD}---\na: 1\n", line),
        "deep lists": (f"{HEAD}    options: {'[' * 4000}{']' * 4000}\n", line),
        "deep blocks": (f"{HEAD}    options: {'{a: ' * 40}1{'}' * 40}\n", line),
        "a bomb": ("a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(9)), line),
        "a list as a key": (f"{HEAD}    ? [a, b]\n    : c\n", line),
        "too large": (f"# {'x' * (1 << 20)}\n{HEAD}", "1 MiB"),
        "a NUL": (f"{HEAD}    epochs: \0\n", line),
        "an escape": (f"{HEAD}    epochs: \x1b[31m\n", line),
        "a long number": (f"{HEAD}    epochs: {'9' * 5000}\n", line),
        "a long word": (f"{HEAD}    amp: {'x' * 5000}\n", "projects[0].amp"),
        "a long key": (f"{HEAD}    {'k' * 500}: 1\n", "projects[0]."),
        "timm for yolo": (f"{HEAD}    trainer: timm\n", "projects[0].trainer"),
        "cpu and cards": (f"{HEAD}    device: cpu\n    resources: {{gpus: 2}}\n", "device"),
        "a batch too small": (f"{HEAD}    batch: 1\n    resources: {{gpus: 2}}\n", "batch"),
        "memory said twice": (
            f"{HEAD}    memory: {{target: 0.5}}\n    memory_target: 0.6\n",
            "projects[0].memory.target",
        ),
        "a yolo run's flat target": (f"{HEAD}    memory_target: 2\n", "projects[0].memory_target"),
        "a timm option": (
            "model: timm/resnet18\ndata: d\nmixup: much\n",
            "mixup",
        ),
    }
    for name, (text, word) in whole.items():
        yield Wrong(text=text, words=(word,), name=name)
