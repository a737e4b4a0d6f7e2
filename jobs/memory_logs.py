"""GPU_mem as ultralytics' public training logs show it, a row a run, and which rows count.

The rows are in memory_logs.csv: settings, the figure, the labels and where it was read.

**Which rows count** was written down before any of them was compared. A row counts if
  - one card trained, and model, task, classes, size, batch, optimizer and precision are known;
  - GPU_mem was read at the end of epoch 1. Later epochs hold what the first validation reserved,
    except up to release 8.3.86, which emptied the cache after each;
  - labels are sparse: at most 32 boxes an image on average, by the count beside the figure;
  - the figure is below 80 % of the card, where nothing is flushed or spilled;
  - images are batched as usual: neither `rect` nor `multi_scale`, and the model is unaltered;
  - whoever collected the rows did not mark it doubtful;
  - it is not, and cannot be, among those on which the factor and the constant were fitted.
`left_out` names what is against a row. No mosaic is nothing against it: it has fewer labels.

**Labels** are not published. The progress bar shows the boxes of the epoch's last batch: the upper
end of what it showed, divided by the images of that batch, is taken for the mean of an image, and
three times that, at least 4, for the most. 6 or 20 differ by about 1 %.
Where only a validation was shown, four times its mean (mosaic) is taken.

**Unit**: 10^9 bytes up to release 8.3.75, 2^30 from 8.3.76 on. Releases up to 8.4.131 trained in
channels_first, as did Windows ever since. The loss that is traced is the installed one's: those of
older releases take more only where labels are dense.

**Halves**: where the rows show that a constant is off, it may be fitted on rows that `is_to_fit`
alone, and the other half is what tells how well it then does. A hash of source and model decides.

Sources are numbers of files in a text index of GitHub.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.plan.workload import Labels, Workload
from orchestrator.types import Bytes

__all__ = ["AGAINST", "TABLE", "Run", "read_runs"]

TABLE = Path(__file__).with_name("memory_logs.csv")
_BEFORE_FLASH = ("Pascal", "Volta", "Turing")
_UNITS = {"GB": 10**9, "GiB": 1 << 30, "MiB": 1 << 20}

AGAINST = {
    "altered": "the model has a module more",
    "dense": "labels are dense, and the most of an image is not known",
    "doubtful": "marked doubtful by who collected it",
    "fitted": "is or may be among the runs that the constants were fitted on",
    "late": "no reading of epoch 1",
    "limit": "near the card's limit",
    "rect": "images batched by shape",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its figure; `left_out` is a key of `AGAINST`, or empty if the row counts."""

    card: str
    architecture: str
    release: str
    batch: int
    workload: Workload
    reserved_bytes: Bytes | None  # GPU_mem of epoch 1, else of a later one; None: not shown
    later_bytes: Bytes | None  # the most of later epochs
    process_bytes: Bytes | None  # what nvidia-smi showed for the process
    left_out: str
    remark: str
    source: str

    @property
    def is_to_fit(self) -> bool:
        """Whether the row is in the half that constants may be fitted on."""
        name = f"{self.source} {self.workload.model}"
        return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def read_runs() -> list[Run]:
    """All rows of the table."""
    with TABLE.open(newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> Run:
    first, later = _bytes(row["epoch_1"], row["unit"]), _bytes(row["late"], row["unit"])
    return Run(
        card=row["card"],
        architecture=row["architecture"],
        release=row["ultralytics"],
        batch=int(row["batch"]),
        workload=Workload(
            trainer="yolo",
            model=f"{row['model']}.yaml",
            imgsz=int(row["imgsz"]),
            num_classes=int(row["classes"]),
            task=row["task"],
            precision=row["precision"],
            optimizer=row["optimizer"],
            has_flash_attention=row["architecture"] not in _BEFORE_FLASH,
            labels=Labels(most=int(row["most"]), mean=float(row["mean"])),
            is_governed=False,
        ),
        reserved_bytes=first or later,
        later_bytes=later,
        process_bytes=_bytes(row["process_mib"], "MiB"),
        left_out=row["left_out"],
        remark=row["remark"],
        source=row["source"],
    )


def _bytes(shown: str, unit: str) -> Bytes | None:
    return round(float(shown) * _UNITS[unit]) if shown else None
