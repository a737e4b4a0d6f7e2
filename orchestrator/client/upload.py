"""What a job takes along to a cluster: config and code, no data, no runs, nothing from outside."""

import hashlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.types import Bytes

__all__ = ["MAX_BYTES", "Upload", "UploadFile", "put_together", "staged"]

MAX_BYTES: Bytes = 64 * 1024**2  # code is small; Ray itself takes 512 MiB, and keeps it in its head
_MAX_FILES = 20_000
# Never code: runs, data sets as tools name them, what others can make again.
_FOLDERS = frozenset(
    [
        "runs",
        "datasets",
        "images",
        "labels",
        "wandb",
        "mlruns",
        "lightning_logs",
        "tensorboard",
        "node_modules",
        "venv",
        "env",
        "__pycache__",
        "site-packages",
        "dist",
        "build",
    ]
)
_KINDS = {
    "weights": "pt pth onnx engine safetensors ckpt h5 pb tflite mlmodel pkl pickle joblib",
    "pictures and films": "jpg jpeg png bmp tif tiff webp gif dng mpo heic mp4 avi mov mkv webm",
    "arrays and tables": "npy npz parquet feather arrow hdf5 mat tfrecord db sqlite",
    "archives": "zip tar gz tgz bz2 xz zst 7z rar whl",
    "keys": "pem key crt p12 keytab",
    "made again": "pyc pyo log",
}
_KIND_OF = {f".{suffix}": kind for kind, suffixes in _KINDS.items() for suffix in suffixes.split()}
_SECRETS = (
    "id_rsa*",
    "id_ed25519*",
    "token",
    "token.txt",
    "*-token",
    "*_token",
    "*.secret",
    "secrets.*",
    "credentials*",
)
_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadFile:
    """One file of an upload: its name there, where its content is, its size and hash."""

    name: str
    path: Path
    num_bytes: Bytes
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is taken along, in the order of names, and how much was left out for which reason."""

    folder: Path
    files: tuple[UploadFile, ...]
    left_out: Mapping[str, int]

    @property
    def num_bytes(self) -> Bytes:
        """Of all files together."""
        return sum(file.num_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 of names and contents."""
        text = "\n".join(f"{file.sha256} {file.name}" for file in self.files)
        return hashlib.sha256(text.encode()).hexdigest()


def put_together(
    folder: Path,
    config: Path,
    *,
    data: Collection[Path] = (),
    excludes: Sequence[str] = (),
    includes: Sequence[str] = (),
) -> Upload:
    """Find the files of a folder that go along.

    Args:
        folder: The working folder.
        config: The config file; it always goes along, and has to lie in the folder.
        data: Files and folders that are data; what lies in them stays here.
        excludes: More patterns (`*`, `?`) of names or paths that stay here.
        includes: Patterns that go along although they would stay here.

    Raises:
        ConfigError: E1081, the config lies elsewhere; E1082, a name is unsafe; E1083, a link leads
            out of the folder; E1084, it is too large.
    """
    root = folder.resolve()
    if not config.resolve().is_relative_to(root):
        raise ConfigError(
            f"{config} does not lie in the folder that is uploaded",
            code="E1081",
            why=(f"uploaded is {root}",),
            fix=("call it in the folder of the project, or name that: --working-dir DIR",),
        )
    left: Counter[str] = Counter()
    own = config.resolve().relative_to(root)
    rules = _Rules(_stored(data, root, own), tuple(excludes), tuple(includes), left)
    files = [_file(name, path) for name, path in _walk(root, rules)]
    if own.as_posix() not in {file.name for file in files}:
        files.append(_file(own.as_posix(), root / own))
    upload = Upload(
        folder=root, files=tuple(sorted(files, key=lambda file: file.name)), left_out=dict(left)
    )
    _demand_small(upload)
    return upload


def staged(upload: Upload, into: Path) -> None:
    """Copy the files into a folder, which then holds exactly them.

    Raises:
        ConfigError: E1085, a file changed meanwhile.
    """
    for file in upload.files:
        target = into / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            os.fdopen(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source,
            target.open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
        target.chmod(stat.S_IMODE(file.path.stat().st_mode) & 0o755 | 0o600)
        if _hash(target) != file.sha256:
            raise ConfigError(
                f"{file.name} changed while it was uploaded",
                code="E1085",
                fix=("submit again",),
            )


@dataclass(frozen=True, slots=True)
class _Rules:
    data: Collection[Path]
    excludes: Sequence[str]
    includes: Sequence[str]
    left: Counter[str]

    def admits(self, name: str, path: Path, *, is_folder: bool) -> bool:
        """True when it goes along; counts the reason where it does not."""
        reason = self._reason(name, path, is_folder=is_folder)
        if reason:
            self.left[reason] += 1
        return not reason

    def _reason(self, name: str, path: Path, *, is_folder: bool) -> str:
        if path in self.data:
            return "data of the config"
        if _matches(self.excludes, name):
            return "--exclude"
        if _matches(self.includes, name):
            return ""
        if path.name.startswith("."):
            return "hidden"
        return _folder_reason(path.name) if is_folder else _file_reason(path)


def _folder_reason(name: str) -> str:
    never = name in _FOLDERS or name.endswith(".egg-info")
    return "folders of data, runs and builds" if never else ""


def _file_reason(path: Path) -> str:
    if any(fnmatch(path.name.lower(), pattern) for pattern in _SECRETS):
        return "keys"
    return _KIND_OF.get(path.suffix.lower(), "")


def _walk(root: Path, rules: _Rules) -> Iterator[tuple[str, Path]]:
    for here, folders, names in os.walk(root):
        base = Path(here)
        kept = []
        for last in sorted(folders):
            name = (base / last).relative_to(root).as_posix()
            if rules.admits(name, base / last, is_folder=True):
                if (base / last).is_symlink():
                    _demand_inside(base / last, name, root)
                    rules.left["links to folders"] += 1
                else:
                    kept.append(last)
        folders[:] = kept
        for last in sorted(names):
            path = base / last
            name = path.relative_to(root).as_posix()
            if rules.admits(name, path, is_folder=False):
                _demand_safe(name)
                yield name, _demand_inside(path, name, root) if path.is_symlink() else path


def _file(name: str, path: Path) -> UploadFile:
    if not path.is_file():  # a pipe or a socket would block or mean nothing there
        raise ConfigError(
            f"{name!r} is not a plain file", code="E1082", fix=(f"--exclude {name!r}",)
        )
    return UploadFile(name=name, path=path, num_bytes=path.stat().st_size, sha256=_hash(path))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _demand_inside(link: Path, name: str, root: Path) -> Path:
    """Where a link leads, which has to be in the folder."""
    target = link.resolve()
    if not target.is_relative_to(root) or not target.exists():
        raise ConfigError(
            f"the link {name} leads out of the folder that is uploaded",
            code="E1083",
            why=(f"to {target}",),
            fix=(f"leave it out: --exclude {name}", "put a copy in its place"),
        )
    return target


def _demand_safe(name: str) -> None:
    parts = name.split("/")
    is_safe = name.isprintable() and "\\" not in name and len(name) < 1024
    try:
        name.encode()
    except UnicodeEncodeError:
        is_safe = False
    if (
        not is_safe
        or ".." in parts
        or any(len(part.encode(errors="replace")) > 255 for part in parts)
    ):
        raise ConfigError(
            f"{name!r:.120} cannot be the name of a file that is uploaded",
            code="E1082",
            why=("names are printable, without a backslash",),
            fix=("rename it, or leave it out with --exclude",),
        )


def _stored(data: Collection[Path], root: Path, config: Path) -> frozenset[Path]:
    """Folders and files of data in the folder; a data file stands for the folder it lies in."""
    found = set()
    for path in data:
        whole = path.resolve()
        above = whole.parent
        keeps = above == root or (root / config).is_relative_to(above)
        found.add(above if whole.is_file() and not keeps else whole)
    return frozenset(path for path in found if path != root and path.is_relative_to(root))


def _demand_small(upload: Upload) -> None:
    if upload.num_bytes <= MAX_BYTES and len(upload.files) <= _MAX_FILES:
        return
    largest = sorted(upload.files, key=lambda file: -file.num_bytes)[:_TOLD]
    raise ConfigError(
        f"{upload.num_bytes / 1024**2:.0f} MiB in {len(upload.files)} files are too much to upload",
        code="E1084",
        why=(
            f"at most {MAX_BYTES >> 20} MiB and {_MAX_FILES} files of config and code",
            *(f"{file.num_bytes / 1024**2:8.1f} MiB  {file.name}" for file in largest),
        ),
        fix=(
            "data and weights stay where every node sees them, named by absolute paths",
            f"leave more out: --exclude {largest[0].name.split('/')[0]}",
        ),
    )


def _matches(patterns: Sequence[str], name: str) -> bool:
    parts = name.split("/")
    tops = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    return any(
        fnmatch(each, pattern.rstrip("/")) for pattern in patterns for each in (*tops, *parts)
    )
