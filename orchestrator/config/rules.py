"""Rules of a project that need more than one key, the trainer's own keys, or the card catalogue."""

from dataclasses import dataclass
from typing import Any

from orchestrator.config.layers import Layer
from orchestrator.config.model import DdpModel, ProjectModel
from orchestrator.config.options import check_option, measurable, option_keys
from orchestrator.config.types import Stage
from orchestrator.config.words import Problem, path_in, unknown_key
from orchestrator.config.yaml import KeyPath, path_text, shown
from orchestrator.errors import OrchestratorError
from orchestrator.types import Scalar

__all__ = [
    "TIMM_PREFIX",
    "Place",
    "block_options",
    "card_problems",
    "contradictions",
    "option_problems",
    "own_options",
    "trainer_of",
]

TIMM_PREFIX = "timm/"
_KEYS = frozenset(ProjectModel.model_fields)
_WHILE_IT_TRAINS = {  # the block `memory` -> trainers' keys
    "adapt": "memory_adapt",
    "target": "memory_target",
    "ladder": "memory_ladder",
    "least_imgsz": "memory_least_imgsz",
    "grad_checkpointing": "grad_checkpointing",
    "optimizer_state": "optimizer_state",
}
_TOGETHER = {key: f"ddp_{key}" for key in DdpModel.model_fields}  # the block `ddp`, the same way
_NOT_OURS = {  # keys of ultralytics that have no meaning here, and what takes their place
    "nbs": "leave it out: it is always the effective batch, which is `batch`",
    "time": "use schedule.max_duration",
    "resume": "leave it out: the same command goes on with an unfinished run; or orc resume",
    "project": "use `name` for the project, and `runs` for the folder",
    "exist_ok": "leave it out: every run has a folder of its own",
    "task": "leave it out: it follows from the model",
    "mode": "leave it out: a run trains",
    "save": "leave it out: checkpoints are always written",
    "save_period": "leave it out: a checkpoint is written after every epoch",
    "compile": "leave it out: a compiled step cannot be cut to fit the memory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a block of settings stands: `base` is its path (`projects[1]`, or empty)."""

    base: str
    where: str
    layer: Layer
    stage: Stage | None = None
    whole: Layer | None = None  # the project with its stages, where `layer` is that of one stage

    def of(self, path: KeyPath) -> tuple[str, str]:
        """The path as people wrote it, and the place."""
        origin = self.layer.origin(path)
        if origin is None:
            return path_in(self.base, path), self.where
        written = origin.path
        tail = path_text(path[-1:])
        return (written if written.endswith(tail) else path_in(self.base, path)), origin.where


def trainer_of(model: str, explicit: str | None = None) -> str:
    """`timm` for a model named timm/..., else `yolo`, unless the config says it."""
    return explicit or ("timm" if model.startswith(TIMM_PREFIX) else "yolo")


def option_problems(place: Place, values: dict[str, Any]) -> list[Problem]:
    """Keys that the trainer does not know, and values that it does not take."""
    extra = [key for key in values if key not in _KEYS]
    model, explicit = values.get("model"), values.get("trainer")
    if not extra or explicit == "fake":
        return []
    trainer = trainer_of(model if isinstance(model, str) else "")
    if explicit in ("yolo", "timm"):
        trainer = explicit
    known = option_keys(trainer)
    found = []
    for key in extra:
        if key in known:
            continue
        problem = unknown_key(*place.of((key,)), key, known | _KEYS)
        problem.fix = _NOT_OURS.get(key, problem.fix)
        found.append(problem)
    wrong = _option_values(place, trainer, {k: values[k] for k in extra if k in known})
    return found + wrong


def _option_values(place: Place, trainer: str, options: dict[str, Any]) -> list[Problem]:
    found = []
    for key, value in options.items():
        if key in measurable(trainer) and value == "auto":
            continue  # measured before the run begins
        try:
            check_option(trainer, key, value)
        except OrchestratorError as error:
            name, where = place.of((key,))
            found.append(
                Problem(f"{name}: {error.what} ({where})", code="E1011", fix="; ".join(error.fix))
            )
    return found


def contradictions(place: Place, model: ProjectModel) -> list[Problem]:
    """Values that are right alone and wrong together."""
    found = []

    def say(path: KeyPath, text: str, fix: str) -> None:
        name, where = place.of(path)
        found.append(Problem(f"{name} {text} ({where})", code="E1018", fix=fix))

    if model.trainer not in (None, "fake") and model.trainer != trainer_of(model.model):
        say(
            ("trainer",),
            f"is {model.trainer}, but the model {shown(model.model)} is for"
            f" {trainer_of(model.model)}",
            "leave trainer out; timm models are named timm/NAME",
        )
    _, gpus = model.resources.width
    if model.batch < gpus:
        say(
            ("batch",),
            f"{model.batch} is less than resources.gpus {gpus}: every GPU takes a sample or more",
            f"batch: {gpus}, or more",
        )
    if model.micro_batch is not None and model.micro_batch > model.batch:
        say(
            ("micro_batch",),
            f"{model.micro_batch} is more than batch {model.batch}",
            f"micro_batch: at most {model.batch}, or leave it out",
        )
    if model.device == "cpu" and (gpus > 1 or model.resources.gpu_type):
        say(("device",), "is cpu, but resources ask for GPUs", "remove one of the two")
    found.extend(_image_size(place, model))
    found.extend(_ladder(place, model))
    found.extend(_said_twice(place, model))
    found.extend(_measurable(place, model))
    found.extend(card_problems(place, ("resources", "gpu_type"), model.resources.gpu_type))
    return found


def _ladder(place: Place, model: ProjectModel) -> list[Problem]:
    rungs, least = model.memory.ladder, model.memory.least_imgsz
    text, fix, key = "", "", "ladder"
    if len(set(rungs)) < len(rungs):
        text, fix = "names a rung twice", "memory.ladder: each rung once"
    elif ("imgsz" in rungs) != (least is not None):
        text = "has the rung imgsz only together with memory.least_imgsz"
        fix = "give both, or neither: smaller pictures are another experiment"
    elif least is not None and model.imgsz is not None and least > model.imgsz:
        text, key = f"{least} is more than imgsz {model.imgsz}", "least_imgsz"
        fix = f"memory.least_imgsz: at most {model.imgsz}"
    if not text:
        return []
    name, where = place.of(("memory", key))
    return [Problem(f"{name} {text} ({where})", code="E1018", fix=fix)]


def _written(model: ProjectModel) -> dict[str, Any]:
    """The settings among which some may be left to a measurement."""
    return {"workers": model.workers, "cache": model.cache, **(model.model_extra or {})}


def _measured(model: ProjectModel) -> list[str]:
    """The settings that are left to a measurement, by `auto`."""
    written = _written(model)
    names = measurable(trainer_of(model.model, model.trainer))
    return [name for name in names if written.get(name) == "auto"]


def own_options(model: ProjectModel) -> dict[str, Scalar]:
    """The trainer's own keys; those that are to be measured are named in its key `auto`."""
    flat, names = dict(model.model_extra or {}), _measured(model)
    found = {key: value for key, value in flat.items() if key not in names}
    return found | ({"auto": ", ".join(names)} if names else {})


def _measurable(place: Place, model: ProjectModel) -> list[Problem]:
    """Workers and cache, which every trainer has, where a trainer measures nothing."""
    offered = measurable(trainer_of(model.model, model.trainer))
    found = []
    for name in ("workers", "cache"):
        if name not in offered and _written(model)[name] == "auto":
            key, where = place.of((name,))
            text = f"{key} is not measured by this trainer ({where})"
            found.append(Problem(text, code="E1018", fix=f"{name}: a value, or leave it out"))
    return found


def block_options(model: ProjectModel) -> dict[str, Scalar]:
    """What the blocks `memory` and `ddp` tell the trainer, in the trainer's own keys.

    Only what differs from the default is told: a config that spells the defaults out describes
    the same run as one that does not.
    """
    told: dict[str, Scalar] = {}
    for block, keys in ((model.memory, _WHILE_IT_TRAINS), (model.ddp, _TOGETHER)):
        usual = type(block).model_validate({})
        told |= {
            option: _scalar(getattr(block, key))
            for key, option in keys.items()
            if getattr(block, key) != getattr(usual, key)
        }
    known = option_keys(trainer_of(model.model, model.trainer)) if told else frozenset()
    return {option: value for option, value in told.items() if option in known}


def _scalar(value: object) -> Scalar:
    """A value of the block as an option: names in a row are one text, and so are variables."""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, dict):
        return " ".join(f"{name}={setting}" for name, setting in sorted(value.items()))
    assert isinstance(value, str | int | float | bool)
    return value


def _said_twice(place: Place, model: ProjectModel) -> list[Problem]:
    """The trainer's own key beside another value in a block."""
    flat, found = model.model_extra or {}, []
    for option, value in block_options(model).items():
        if option in flat and flat[option] != value:
            block = "ddp" if option in _TOGETHER.values() else "memory"
            name, where = place.of((block, option.removeprefix(f"{block}_")))
            text = f"{name} is {value}, but {option} is {shown(str(flat[option]))} ({where})"
            found.append(Problem(text, code="E1018", fix=f"leave {option} out"))
    return found


def _image_size(place: Place, model: ProjectModel) -> list[Problem]:
    detects = trainer_of(model.model, model.trainer) == "yolo" and "-cls" not in model.model
    if not detects or model.imgsz is None or model.imgsz % 32 == 0:
        return []
    name, where = place.of(("imgsz",))
    below = max(32, model.imgsz // 32 * 32)
    return [
        Problem(
            f"{name} must be a multiple of 32, the stride of a YOLO network, not {model.imgsz}"
            f" ({where})",
            code="E1011",
            fix=f"imgsz: {below} or {below + 32}",
        )
    ]


def card_problems(place: Place, path: KeyPath, names: tuple[str, ...]) -> list[Problem]:
    """The names of cards that the catalogue does not know."""
    found = []
    for name in names:
        from orchestrator.device.catalogue import emulated_cards, find_card  # only when asked

        try:
            if path == ("cluster", "emulate"):
                emulated_cards([name])
            else:
                find_card(name)
        except OrchestratorError as error:
            if error.code == "E1052" and path[-1] == "gpu_type":
                continue  # a family, such as A100: all its cards are allowed
            text, where = place.of(path)
            found.append(
                Problem(f"{text}: {error.what} ({where})", code="E1015", fix="; ".join(error.fix))
            )
    return found
