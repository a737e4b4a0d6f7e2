"""Keeps ultralytics to itself while it trains: no network, no integrations, no foreign files."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from orchestrator.ports import Device
from orchestrator.trainer.yolo_settings import environment, yolo_option_keys

__all__ = ["apart", "can_halve", "on_host"]

_LOG = logging.getLogger(__name__)

# Cards whose fp16 gives NaN or zero mAP: the list of ultralytics 8.4, utils/checks.py, check_amp.
_BAD_HALF = re.compile(
    r"(nvidia|geforce|quadro|tesla).*?(1660|1650|1630|t400|t550|t600|t1000|t1200|t2000|k40m)",
    re.IGNORECASE,
)

_INTEGRATIONS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")


@contextmanager
def apart(folder: str) -> Generator[None]:
    """Keep ultralytics to itself: no network, no integrations, no foreign files, ours untouched.

    Imports ultralytics. While inside, it looks up no font, its AMP check loads no model, its
    scan results are cached under the run folder (its own place is beside the labels, and it
    would unpickle whatever lies there), and a damaged JPEG is not rewritten in place.

    Raises:
        ConfigError: E1110, ultralytics is not installed.
    """
    yolo_option_keys()  # raises without an import where there is no ultralytics
    settings = environment(folder)
    Path(settings["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)
    os.environ.update(settings)
    import ultralytics.data.dataset
    import ultralytics.data.utils
    import ultralytics.engine.trainer
    import ultralytics.nn.tasks
    import ultralytics.utils
    import ultralytics.utils.patches

    # Its import replaced PIL.Image.open for the whole process, by one that wants to install a
    # decoder when a file is no picture. This tells it that the decoder is there already.
    ultralytics.utils.patches._pil_plugins_registered = True
    if any(ultralytics.utils.SETTINGS[key] is not False for key in _INTEGRATIONS):
        ultralytics.utils.SETTINGS.update(dict.fromkeys(_INTEGRATIONS, False))
    place = Path(settings["YOLO_CONFIG_DIR"]) / "scans"
    place.mkdir(exist_ok=True)
    dataset = ultralytics.data.dataset
    read, write = dataset.load_dataset_cache_file, dataset.save_dataset_cache_file
    with ExitStack() as stack:
        for module, name, value in (
            # constants that were read before the environment was set, where another import came
            # first in this process
            (ultralytics.nn.tasks, "SAFE_LOAD", True),
            (ultralytics.utils, "AUTOINSTALL", False),
            (ultralytics.utils, "ONLINE", False),
            (ultralytics.data.utils, "check_font", _nothing),
            (ultralytics.engine.trainer, "check_amp", _can_amp),
            (ultralytics.data.utils, "_replace_image", _left_alone),
            (dataset, "load_dataset_cache_file", lambda path: read(_scan(place, path))),
            (
                dataset,
                "save_dataset_cache_file",
                lambda prefix, path, found, version: write(
                    prefix, _scan(place, path), found, version
                ),
            ),
        ):
            stack.enter_context(_swapped(module, name, value))
        yield


@contextmanager
def _swapped(module: Any, name: str, value: object) -> Generator[None]:
    kept = getattr(module, name)  # an AttributeError here: an ultralytics that was not tested
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


def _scan(place: Path, path: Path) -> Path:
    return place / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.cache"


def _nothing(*_: object) -> None:
    return None


def _left_alone(file: object, write: Callable[[str], None]) -> None:
    del write
    _LOG.warning("%s does not end as a JPEG should; it is used as it is", file)


def on_host(device: Device) -> AbstractContextManager[object]:
    """A context for tensors that are the host's: a CPU that poses as a card has to be told."""
    told: Callable[[], AbstractContextManager[object]] = getattr(device, "host", nullcontext)
    return told()


def can_halve(device: Any) -> bool:
    """True when fp16 can be used on a torch device: on cards, without those that get it wrong."""
    import torch

    if device.type != "cuda":
        return False
    card = torch.cuda.get_device_name(device)
    if _BAD_HALF.search(card):
        _LOG.warning("%s computes wrongly in fp16; this run uses fp32", card)
        return False
    return True


def _can_amp(model: Any) -> bool:
    """In place of the original's trial with a downloaded model."""
    return can_halve(next(model.parameters()).device)
