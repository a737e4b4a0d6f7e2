"""The shape of a config file as pydantic models: types, ranges, and the words of each key."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from orchestrator.config.fields import (
    NAME_PATTERN,
    Block,
    RungName,
    Text,
    amp_given,
    batch_given,
    cache_given,
    cpus_given,
    device_given,
    duration_given,
    folds_given,
    gpus_given,
    group_key_given,
    headroom_given,
    labels_given,
    memory_given,
    name_given,
    one_or_more,
    optimizer_given,
    scalar_given,
    selector_given,
    variables_given,
    workers_given,
)
from orchestrator.config.node_types import NodeTypeModel
from orchestrator.config.retry import RetryModel, retry_block

__all__ = [
    "ClusterModel",
    "DdpModel",
    "FileModel",
    "FoldsModel",
    "MemoryModel",
    "ProjectModel",
    "QueueModel",
    "ResourcesModel",
    "ScheduleModel",
]


class ResourcesModel(Block):
    """What a run needs of the cluster."""

    gpus: Annotated[int | str, BeforeValidator(gpus_given, json_schema_input_type=int | str)] = (
        Field(1, description="GPUs of one run, or a range such as 1-4: as many as serve all best")
    )
    nodes: Literal[1] | None = Field(
        None, description="1: all GPUs of a run on one node; else on as few as can hold it"
    )
    memory: Annotated[
        int | None, BeforeValidator(memory_given, json_schema_input_type=str | None)
    ] = Field(None, description='per GPU: auto (as predicted) or a size such as "8GiB"')
    headroom: Annotated[
        int | float | None,
        BeforeValidator(headroom_given, json_schema_input_type=str | float | None),
    ] = Field(None, description="what stays free of a card: auto, a share (5%), a size (512MiB)")
    gpu_type: Annotated[
        tuple[Text, ...], BeforeValidator(one_or_more, json_schema_input_type=str | list[str])
    ] = Field((), max_length=64, description="card names that are allowed; none given allows all")
    labels: Annotated[
        dict[str, str], BeforeValidator(selector_given, json_schema_input_type=dict[str, Any])
    ] = Field(
        default_factory=dict,
        max_length=16,
        description='of the nodes where it may run: zone: a, disk: "!slow", zone: "in(a,b)"',
    )
    cpus: Annotated[
        float | Literal["auto"] | None,
        BeforeValidator(cpus_given, json_schema_input_type=float | Literal["auto"] | None),
    ] = Field(
        None,
        description="CPUs per GPU, counted by the scheduler; auto: one for each loading process and"
        " one for the training, at most a card's part of its node (then with fewer loading"
        " processes); none given: not counted beside a GPU, 1 with `device: cpu`",
    )
    ram: Annotated[int | None, BeforeValidator(memory_given, json_schema_input_type=str | None)] = (
        Field(
            None,
            description="RAM per GPU, counted by the scheduler, loading processes included: a"
            ' size such as "16GiB", or auto: as predicted with `cache: ram`, else not counted',
        )
    )

    @property
    def width(self) -> tuple[int, int]:
        """The least and the most GPUs of one run."""
        words = str(self.gpus).split("-")
        return int(words[0]), int(words[-1])


class MemoryModel(Block):
    """How a run is made to fit the memory of a card, before it starts and while it trains.

    A run has a share of its card: `resources.memory`, or what was predicted for it. Pieces that
    were cut grow again within that share only, up to `target` of it, and never beyond the piece
    that was planned: what the card has free besides belongs to others.
    """

    predict: bool = Field(default=True, description="plan with a prediction; false: a whole card")
    ladder: Annotated[
        tuple[RungName, ...],
        BeforeValidator(one_or_more, json_schema_input_type=str | list[str]),
    ] = Field(
        ("cut", "amp", "checkpointing", "optimizer_8bit", "optimizer_host", "shard"),
        max_length=7,
        description="what may be given up so that a run fits, in this order; also as it trains",
    )
    least_imgsz: int | None = Field(None, ge=32, le=16384, description="least of the rung imgsz")
    adapt: bool = Field(
        default=True, description="pieces grow again after a cut; they are always cut when needed"
    )
    target: float = Field(
        0.85, ge=0.1, le=1, description="part of the run's share that a grown piece may take"
    )
    grad_checkpointing: bool = Field(
        default=False, description="compute layers twice, to keep less"
    )
    optimizer_state: Literal["card", "host", "8bit"] = Field("card", description="where it is kept")


class DdpModel(Block):
    """How the GPUs of one run train together; without meaning for a run on one GPU."""

    bucket_mb: int = Field(25, ge=1, le=4096, description="MiB of gradients that travel together")
    overlap: bool = Field(
        default=True, description="gradients travel while the backward pass computes the next ones"
    )
    compression: Literal["none", "fp16", "bf16", "powersgd"] = Field(
        "none", description="what gradients travel as; powersgd is low-rank and changes results"
    )
    powersgd_rank: int = Field(1, ge=1, le=256, description="columns that powersgd keeps")
    powersgd_start: int = Field(
        1000, ge=2, le=1_000_000_000, description="steps before powersgd begins to compress"
    )
    shard: Literal["none", "card", "host"] = Field(
        "none",
        description="timm: weights, gradients and optimizer state split over the GPUs, for models"
        " that no card holds; their parts lie on the card, or on the host",
    )
    sync_bn: bool = Field(default=False, description="BatchNorm over all GPUs' parts of a piece")
    nccl: Annotated[
        dict[str, str], BeforeValidator(variables_given, json_schema_input_type=dict[str, Any])
    ] = Field(
        default_factory=dict,
        max_length=64,
        description="variables for NCCL, such as NCCL_SOCKET_IFNAME: eth0, which it else finds",
    )


class ScheduleModel(Block):
    """When and how a run is started."""

    queue: Annotated[str, BeforeValidator(name_given)] = "default"
    priority: int = Field(50, ge=-1000, le=1000, description="higher goes first")
    max_duration: Annotated[
        float | None, BeforeValidator(duration_given, json_schema_input_type=str | float | None)
    ] = Field(None, description="such as 90m, 6h, 1d12h, or seconds")
    hang_after: Annotated[
        float | None, BeforeValidator(duration_given, json_schema_input_type=str | float | None)
    ] = Field(
        None,
        description="silence that counts as a hang, of a gang also in what its ranks compute"
        " together; default: 10 min, or 20 times the longest before, and an hour for the first",
    )
    retry: Annotated[
        RetryModel, BeforeValidator(retry_block, json_schema_input_type=RetryModel | int)
    ] = Field(default_factory=lambda: RetryModel.model_validate({}))


class QueueModel(Block):
    """What a queue may have."""

    weight: float = Field(1.0, gt=0, le=1e6, description="its part beside other queues")
    gpus: float | None = Field(None, gt=0, le=1e6, description="quota: cards at a time; none")


class ClusterModel(Block):
    """Where runs run. Empty means this machine's GPUs."""

    emulate: Annotated[
        tuple[Text, ...], BeforeValidator(one_or_more, json_schema_input_type=str | list[str])
    ] = Field((), max_length=1024, description="cards to emulate on the CPU, by name")
    address: Text | None = Field(None, description="auto or ray://host:port; default: a local Ray")
    labels: Annotated[
        dict[str, str], BeforeValidator(labels_given, json_schema_input_type=dict[str, Any])
    ] = Field(
        default_factory=dict,
        max_length=16,
        description="of this machine's node, where a Ray is started here; orc up has --labels",
    )
    policy: Literal["queue", "shortest", "balanced"] | None = Field(
        None,
        description="queue: by priority and share; shortest: low mean; balanced: early last end",
    )
    queues: dict[str, QueueModel] = Field(
        default_factory=dict, max_length=256, description="weight and quota of queues, by name"
    )
    node_types: dict[str, NodeTypeModel] = Field(
        default_factory=dict,
        max_length=64,
        description="nodes that the Ray at `address` may bring, by type",
    )
    launcher: Text | None = Field(
        None, description="or the file for `ray up` that describes them, as the driver sees it"
    )
    node_wait: Annotated[
        float, BeforeValidator(duration_given, json_schema_input_type=str | float)
    ] = Field(120.0, description="no node is asked for a run that will have room this soon")
    node_late: Annotated[
        float, BeforeValidator(duration_given, json_schema_input_type=str | float)
    ] = Field(900.0, description="a node that has not come after this is told as late")


class FoldsModel(Block):
    """Training on every part of the data but one, once for each: k-fold cross-validation.

    Pictures of one group are never in two folds. The same data, k, key and seed give the same
    folds on every machine.
    """

    k: int = Field(ge=2, le=1000, description="number of folds, and of runs")
    by: Annotated[Text | None, BeforeValidator(group_key_given)] = Field(
        None,
        description="what groups pictures: a regular expression on file names (its first group, or"
        " all of it), or the path of a .csv file with the columns file and group",
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="decides the folds, not the training")
    stratify: bool = Field(default=True, description="spread every class evenly over the folds")


class ProjectModel(Block):
    """One training, in ultralytics' own words. Further keys go to the trainer after a check."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(scalar_given)]]

    name: Annotated[str, BeforeValidator(name_given), Field(pattern=NAME_PATTERN)]
    model: Text = Field(description="yolo11n.yaml, a .pt file, timm/mobilenetv3_small_050")
    data: Text = Field(description="YOLO data file, folder of class folders, or made:NAME")
    trainer: Literal["yolo", "timm", "fake"] | None = Field(None, description="from the model")
    imgsz: int | None = Field(None, ge=8, le=16384, description="pixels, square")
    batch: Annotated[int, BeforeValidator(batch_given, json_schema_input_type=int)] = Field(
        16, ge=1, le=1 << 20, description="the effective batch, on every card"
    )
    micro_batch: int | None = Field(None, ge=1, le=1 << 20, description="upper limit of a piece")
    epochs: int = Field(100, ge=1, le=1_000_000)
    amp: Annotated[
        Literal["fp16", "bf16", "fp32", "auto"],
        BeforeValidator(amp_given, json_schema_input_type=str | bool),
    ] = "auto"
    optimizer: Annotated[
        Literal["SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp"],
        BeforeValidator(optimizer_given, json_schema_input_type=str),
    ] = "AdamW"
    lr0: float | None = Field(None, gt=0, le=1000, description="default: the optimizer's own")
    patience: int = Field(100, ge=0, le=1_000_000, description="epochs; 0 never stops early")
    workers: Annotated[
        int | Literal["auto"],
        BeforeValidator(workers_given, json_schema_input_type=int | Literal["auto"]),
    ] = Field(8, description="data loading processes per GPU; auto: as many as help, at most 8")
    cache: Annotated[
        Literal["false", "ram", "disk", "auto"],
        BeforeValidator(cache_given, json_schema_input_type=str | bool),
    ] = "false"
    seed: int = Field(0, ge=0, lt=1 << 32)
    device: Annotated[
        Literal["gpu", "cpu"], BeforeValidator(device_given, json_schema_input_type=str | None)
    ] = "gpu"
    resources: ResourcesModel = Field(default_factory=lambda: ResourcesModel.model_validate({}))
    memory: MemoryModel = Field(default_factory=lambda: MemoryModel.model_validate({}))
    schedule: ScheduleModel = Field(default_factory=lambda: ScheduleModel.model_validate({}))
    ddp: DdpModel = Field(default_factory=lambda: DdpModel.model_validate({}))
    folds: Annotated[
        FoldsModel | None,
        BeforeValidator(folds_given, json_schema_input_type=FoldsModel | int | None),
    ] = Field(None, description="k-fold: as many runs, each validated on another part of the data")
    stages: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=100,
        description="runs one after the other, each with keys of its own over those of the project"
        " and starting from the best weights of the one before",
    )


class FileModel(Block):
    """A config file. One project alone may put its keys at the top instead of `projects`."""

    cluster: ClusterModel = Field(default_factory=lambda: ClusterModel.model_validate({}))
    runs: Text | None = Field(
        None, description="folder of run folders, or an address of a store: s3://...; default: runs"
    )
    defaults: dict[str, Any] = Field(default_factory=dict, description="keys of every project")
    projects: list[ProjectModel] = Field(default_factory=list, max_length=10_000)
