"""A YOLO data set: its data.yaml validated field by field and written again as our own."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import DataError

__all__ = ["YoloData", "read_class_folders", "read_data_yaml"]

_MAX_BYTES = 1 << 20  # of a data.yaml: 1 MiB, a thousand times what a thousand classes take
_MAX_CLASSES = 100_000
_SPLITS = ("train", "val", "test")
_FIELDS = (*_SPLITS, "path", "names", "nc", "channels", "kpt_shape", "flip_idx", "validation")
_IGNORED = ("license", "description", "version", "author", "date", "roboflow", "task")
_CLASS_FOLDERS = ("val", "validation", "test")  # what ultralytics takes for `val`, in this order


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloData:
    """What a data set is, after validation. `splits` maps train, val (and test) to paths."""

    source: Path
    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    names: tuple[str, ...]
    channels: int = 3
    kpt_shape: tuple[int, int] | None = None
    flip_idx: tuple[int, ...] | None = None

    def write(self, folder: Path) -> Path:
        """Write a data.yaml of these fields and nothing else; every path in it is absolute."""
        content: dict[str, Any] = {
            "path": str(self.root),
            **{name: [str(path) for path in paths] for name, paths in self.splits.items()},
            "names": dict(enumerate(self.names)),
            "channels": self.channels,
        }
        if self.kpt_shape is not None:
            content["kpt_shape"] = list(self.kpt_shape)
        if self.flip_idx is not None:
            content["flip_idx"] = list(self.flip_idx)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "data.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return file


def read_data_yaml(file: Path) -> YoloData:
    """Read and validate a data.yaml of a detect, segment, pose or obb data set.

    Raises:
        DataError: E3201 missing, E3202 not YAML of plain fields, E3203 a field that could run
            code or reach the network, E3204 an unknown field, E3205 a wrong value, E3206 a
            path that leaves the data set, E3207 a path that does not exist.
    """
    fields = _load(file)
    _check_keys(file, fields)
    root = _root(file, fields.get("path"))
    if "validation" in fields and "val" not in fields:
        fields["val"] = fields.pop("validation")
    splits: dict[str, tuple[Path, ...]] = {}
    for name in _SPLITS:
        if fields.get(name) is not None:
            splits[name] = _split(file, root, name, fields[name])
    for name in ("train", "val"):
        if name not in splits:
            raise _wrong(file, f"the field {name} is missing", f"{name}: images/{name}")
    kpt_shape = _key_points(file, fields.get("kpt_shape"))
    return YoloData(
        source=file,
        root=root,
        splits=splits,
        names=_names(file, fields),
        channels=_whole(file, "channels", fields.get("channels", 3), 1, 64),
        kpt_shape=kpt_shape,
        flip_idx=_flips(file, fields.get("flip_idx"), kpt_shape),
    )


def read_class_folders(folder: Path) -> YoloData:
    """Validate a classification data set: `train/<class>/` and `val/<class>/` with pictures.

    Raises:
        DataError: E3201 missing, E3205 fewer than two classes or a class unknown to train,
            E3207 no val folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"the data set {folder} is not a folder",
            code="E3201",
            fix=("data: a folder that holds train/<class>/ and val/<class>/",),
        )
    val = next((folder / n for n in _CLASS_FOLDERS if (folder / n).is_dir()), folder / "val")
    found: dict[str, tuple[str, ...]] = {}
    for name, path in (("train", folder / "train"), ("val", val)):
        if not path.is_dir():
            raise _missing(folder, name, path)
        classes = sorted(x.name for x in path.iterdir() if x.is_dir() and x.name[0] != ".")
        found[name] = tuple(classes)
    if len(found["train"]) < 2:
        raise _wrong(folder, f"train has {len(found['train'])} class folders", "make at least 2")
    if strange := sorted(set(found["val"]) - set(found["train"])):
        raise _wrong(
            folder, f"val has classes that train lacks: {', '.join(strange[:10])}", "add or rename"
        )
    return YoloData(
        source=folder,
        root=folder,
        splits={"train": (folder / "train",), "val": (val,)},
        names=found["train"],
    )


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(
            f"the data file {file} does not exist",
            code="E3201",
            why=("no data set is ever downloaded",),
            fix=("data: the path of a data.yaml on this machine",),
        )
    if file.stat().st_size > _MAX_BYTES:
        raise _wrong(file, "it is larger than 1 MiB", "is it a data.yaml?", "E3202")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise _wrong(file, "it uses YAML aliases", "write the values out", "E3202")
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise _wrong(file, f"it is not YAML: {line}", "repair it", "E3202") from error
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise _wrong(file, "it is not a list of fields", "train: ..., val: ...", "E3202")
    return {key: value for key, value in fields.items() if key not in _IGNORED}


def _check_keys(file: Path, fields: Mapping[str, Any]) -> None:
    if "download" in fields:
        raise DataError(
            f"{file} has a `download` field",
            code="E3203",
            why=("ultralytics would run it as a program when a picture folder is missing",),
            fix=("fetch the data set yourself and delete the field",),
        )
    for key in fields:
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, n=1)
            raise DataError(
                f"{file} has an unknown field `{key}`",
                code="E3204",
                fix=(f"rename it to `{near[0]}`" if near else f"delete `{key}`",),
            )


def _root(file: Path, value: object) -> Path:
    if value is None:
        return file.parent.resolve()
    text = _path_text(file, "path", value)
    for candidate in (Path(text), file.parent / text):
        if candidate.is_dir():
            return candidate.resolve()
    raise _missing(file, "path", file.parent / text)


def _split(file: Path, root: Path, name: str, value: object) -> tuple[Path, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _wrong(file, f"{name} is empty", f"{name}: images/{name}")
    paths = []
    for item in values:
        text = _path_text(file, name, item)
        path = (root / text).resolve()
        if ".." in Path(text).parts and not path.is_relative_to(root):
            raise DataError(
                f"{file}: {name}: {text} leads out of the data set {root}",
                code="E3206",
                fix=(f"{name}: {Path(*(p for p in Path(text).parts if p != '..'))}",),
            )
        if not path.exists():
            raise _missing(file, name, path)
        paths.append(path)
    return tuple(paths)


def _path_text(file: Path, name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _wrong(file, f"{name} is {value!r}, not a path", f"{name}: images/{name}")
    if "://" in value:
        raise DataError(
            f"{file}: {name} is an address: {value[:80]}",
            code="E3203",
            why=("no data set is ever downloaded",),
            fix=("fetch it yourself and name the folder",),
        )
    return value


def _names(file: Path, fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("names")
    if value is None:
        count = _whole(file, "nc", fields.get("nc"), 1, _MAX_CLASSES)
        return tuple(f"class_{i}" for i in range(count))
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise _wrong(file, "the keys of names are not 0, 1, 2, ...", "number the classes")
        value = [value[i] for i in range(len(value))]
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= _MAX_CLASSES
        or any(isinstance(name, list | dict | type(None)) for name in value)
    ):
        raise _wrong(file, "names is not a list of classes", "names: [cat, dog]")
    if fields.get("nc") is not None:
        count = _whole(file, "nc", fields["nc"], 1, _MAX_CLASSES)
        if count != len(value):
            raise _wrong(file, f"nc is {count}, but names has {len(value)}", "delete nc")
    return tuple(str(name) for name in value)


def _key_points(file: Path, value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong(file, f"kpt_shape is {value!r}", "kpt_shape: [17, 3]")
    return (
        _whole(file, "kpt_shape", value[0], 1, 10_000),
        _whole(file, "kpt_shape", value[1], 2, 3),
    )


def _flips(file: Path, value: object, shape: tuple[int, int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if shape is None or not isinstance(value, list) or len(value) != shape[0]:
        raise _wrong(file, "flip_idx does not fit kpt_shape", "one index a key point")
    return tuple(_whole(file, "flip_idx", item, 0, shape[0] - 1) for item in value)


def _whole(file: Path, name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(file, f"{name} is {value!r}", f"{name}: a number from {low} to {high}")
    return value


def _wrong(file: Path, what: str, fix: str, code: str = "E3205") -> DataError:
    return DataError(f"{file}: {what}", code=code, fix=(fix,))


def _missing(file: Path, name: str, path: Path) -> DataError:
    return DataError(
        f"{file}: the {name} path {path} does not exist",
        code="E3207",
        why=("no data set is ever downloaded",),
        fix=("correct the path, or put the pictures there",),
    )
