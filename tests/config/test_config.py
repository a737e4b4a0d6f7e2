"""A right config: merged in the told order, checked, the same when written out and read again."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.config.check import check_files
from orchestrator.config.load import Config, load_config, schema
from orchestrator.config.model import DdpModel, FileModel, MemoryModel, ProjectModel
from orchestrator.config.yaml import read_yaml, write_yaml
from orchestrator.errors import ConfigError, DataError, NotFoundError
from orchestrator.plan.ladder import Rung
from orchestrator.trainer.options_ddp import DdpOptions, ddp_options
from orchestrator.trainer.options_memory import MemoryOptions, memory_options
from orchestrator.types import DeviceKind, QueueRule, Scalar

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30

CFG = """\
cluster: {emulate: ["RTX 2060", "2x RTX 4080 SUPER"]}
defaults: {epochs: 50, patience: 20, resources: {memory: 2GiB}}
projects:
  - name: cells
    model: yolo11n.yaml
    data: made:digits-detect
    imgsz: 640
    batch: 32
    amp: fp16
    lr0: 2e-3
    mosaic: 0.5
    resources: {gpu_type: [RTX-4090, A100]}
    schedule: {priority: 60, max_duration: 1h30m, retry: 3}
  - name: v1.2
    model: timm/mobilenetv3_small_050
    data: made:digits-classify
    device: cpu
    resources: {memory: 8GB}
    mixup: 0.2
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def load(folder: Path, text: str, *words: str, **variables: str) -> Config:
    path = folder / "exp.yaml"
    path.write_text(text)
    return load_config(path, words, environment={"ORC_CONFIG": "none.yaml", **variables})


def origin(config: Config, project: int, key: str) -> str:
    rows = {row.path: row.origin for row in config.projects[project].settings}
    return rows[f"projects[{project}].{key}"].rpartition("/")[2]


def test_a_config_becomes_frozen_specs(tmp_path: Path) -> None:
    config = load(tmp_path, CFG)
    cells, classes = (project.template for project in config.projects)
    assert config.emulate == ("RTX 2060", "2x RTX 4080 SUPER")
    assert config.runs == tmp_path / "runs"
    assert (cells.trainer, classes.trainer) == ("yolo", "timm")
    assert (cells.settings.imgsz, classes.settings.imgsz) == (640, 224)
    assert cells.settings.lr0 == 0.002
    assert cells.settings.options == {"mosaic": 0.5}
    assert cells.effective_batch == 32
    assert cells.memory_bytes == 2 * GIB
    assert cells.gpu_types == ("RTX-4090", "A100")
    assert cells.max_duration_seconds == 5400
    assert cells.retry.user_errors == 3
    assert (classes.device, classes.num_cpus) == (DeviceKind.CPU, 1.0)
    assert classes.memory_bytes == 8 * 10**9
    assert config.projects[1].made == "digits-classify"


def test_ram_is_counted_as_said_and_written_as_it_was_read(tmp_path: Path) -> None:
    said, auto = load(tmp_path, CFG, "cells.resources.ram=12GiB").projects
    assert (said.template.host_bytes, auto.template.host_bytes) == (12 * GIB, 0)
    assert said.resolved["resources"]["ram"] == "12GiB"
    assert load(tmp_path, CFG, "resources.ram=auto").projects[0].template.host_bytes == 0


def test_every_value_knows_where_it_came_from(tmp_path: Path) -> None:
    config = load(tmp_path, CFG, "epochs=7", "cells.lr0=0.1")
    assert origin(config, 0, "epochs") == "command line"
    assert origin(config, 0, "lr0") == "command line"
    assert origin(config, 1, "lr0") == "default"
    assert origin(config, 0, "patience") == "exp.yaml:2"
    assert origin(config, 0, "imgsz") == "exp.yaml:7"
    assert origin(config, 0, "schedule.priority") == "exp.yaml:13"
    assert origin(config, 0, "schedule.queue") == "default"


def test_later_layers_win_and_blocks_are_merged(tmp_path: Path) -> None:
    user = tmp_path / "user.yaml"
    user.write_text("runs: /u\ndefaults: {patience: 1, workers: 2, resources: {cpus: 3}}\n")
    config = load(tmp_path, CFG, ORC_CONFIG=str(user), ORC_RUNS="/e")
    cells = config.projects[0].template
    assert cells.settings.workers == 2  # the user's
    assert cells.settings.patience == 20  # the file's defaults over the user's
    assert (cells.num_cpus, cells.memory_bytes) == (3.0, 2 * GIB)  # a block, merged
    assert config.runs == Path("/e")  # the environment over the user's
    config = load(tmp_path, CFG, "runs=/c", ORC_CONFIG=str(user), ORC_RUNS="/e")
    assert config.runs == Path("/c")  # the command line over everything


def test_words_reach_one_project_by_its_name_even_with_dots(tmp_path: Path) -> None:
    words = ("v1.2.resources.memory=4GiB", "v1.2.epochs=9", "resources.memory=1GiB", "epochs=8")
    cells, classes = (project.template for project in load(tmp_path, CFG, *words).projects)
    assert (cells.memory_bytes, cells.settings.epochs) == (GIB, 8)
    assert (classes.memory_bytes, classes.settings.epochs) == (4 * GIB, 9)


def test_one_project_may_stand_at_the_top_and_is_named_after_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "model: yolo11n-cls.yaml\ndata: made:digits-classify\n")
    (project,) = config.projects
    assert (project.name, project.template.settings.imgsz) == ("exp", 224)


def test_a_project_may_be_given_by_words_alone() -> None:
    config = load_config(None, ["model=yolo11n.yaml", "data=made:x", "name=n"], environment={})
    assert config.projects[0].name == "n"
    config = load_config(None, ["model=yolo11n.yaml", "data=made:x"], environment={})
    assert config.projects[0].name == "yolo11n"


def test_the_resolved_config_read_again_gives_the_same_runs(tmp_path: Path) -> None:
    first = load(tmp_path, CFG, "seed=5")
    written = yaml.safe_dump({"projects": [dict(p.resolved) for p in first.projects]})
    second = load(tmp_path, written)
    assert [p.template for p in second.projects] == [p.template for p in first.projects]


def test_spellings_of_ultralytics_are_understood(tmp_path: Path) -> None:
    text = "model: yolo11n.yaml\ndata: made:x\namp: {}\ncache: {}\noptimizer: {}\n"
    for given_amp, amp in (("true", "fp16"), ("false", "fp32"), ("bf16", "bf16")):
        spec = load(tmp_path, text.format(given_amp, "true", "adamw")).projects[0].template
        assert (spec.settings.amp, spec.settings.cache) == (amp, "ram")
        assert spec.settings.optimizer == "AdamW"


def test_relative_paths_are_seen_from_the_config_then_from_here(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    (folder / "near").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    text = "model: yolo11n-cls.yaml\ndata: {}\n"
    data = [
        load(folder, text.format(name)).projects[0].template.settings.data
        for name in ("near", "far", "nowhere")
    ]
    assert data == [str(folder / "near"), str(tmp_path / "far"), "nowhere"]


def test_a_missing_config_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_config(tmp_path / "none.yaml", environment={})
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("model=yolov8n.pt", "data=made:digits-detect"), "E3003", "yolov8n.yaml"),
        (("model=page.pt", "data=made:digits-detect"), "E3004", "page.pt"),
        (("model=yolo11q.yaml", "data=made:digits-detect"), "E3005", "yolo11"),
        (("model=timm/resnet81", "data=made:digits-classify"), "E3005", "timm/resnet"),
        (("model=/etc/passwd", "data=made:digits-detect"), "E3005", "yolo11n.yaml"),
        (("model=https://x/y.pt", "data=made:digits-detect"), "E3006", "fetch"),
        (("model=yolo11n.yaml", "data=coco8.yaml"), "E3001", "made:digits-detect"),
        (("model=yolo11n.yaml", "data=https://x/y.zip"), "E3006", "fetch"),
        (("model=yolo11n.yaml", "data=empty.yaml"), "E3205", "train"),
        (("model=timm/resnet18", "data=folder"), "E3101", "class"),
        (("model=yolo11n-cls.yaml", "data=folder"), "E3201", "train"),
    ],
)
def test_files_are_checked_before_anything_starts(
    words: tuple[str, ...], code: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "page.pt").write_text("<html>not weights</html>")
    (tmp_path / "empty.yaml").write_text("names: [a]\nval: .\n")
    (tmp_path / "folder").mkdir()
    config = load_config(None, words, environment={})
    with pytest.raises(DataError) as caught:
        check_files(config.projects)
    error = caught.value
    text = " ".join((error.what, *error.why, *error.fix))
    assert error.code[:3] == code[:3], error.code
    assert told in text


@pytest.mark.parametrize("name", ["quickstart", "train_yolo", "train_timm"])
def test_the_configs_that_are_shipped_are_valid(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", environment={})
    check_files(config.projects)


def test_the_schema_names_every_key() -> None:
    found = schema()
    assert set(ProjectModel.model_fields) <= set(found["properties"])
    assert set(FileModel.model_fields) <= set(found["properties"])
    json.dumps(found)


def test_reading_and_checking_a_config_imports_no_framework(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(CFG)
    code = (
        "import sys; from orchestrator.config.load import load_config;"
        "from orchestrator.config.check import check_files;"
        "check_files(load_config('exp.yaml', environment={}).projects);"
        "heavy = {'torch', 'ultralytics', 'timm', 'ray', 'sqlalchemy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcdefgh", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(value=plain)
@example(value="0E0")
@example(value="09")
@example(value="0_9")
@example(value="-1e-3")
@example(value="1:30")
def test_what_is_written_is_read_back(value: object) -> None:
    assert read_yaml(write_yaml({"a": value}), "x").value == {"a": value}
    assert read_yaml(write_yaml({"a": [value, value]}), "x").value == {"a": [value, value]}


def test_the_nearest_line_is_named_for_an_error_in_a_block(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, CFG + "    schedule: {priority: high}\n")
    assert "exp.yaml:20" in caught.value.what
    assert "projects[1].schedule.priority" in caught.value.what


def test_the_memory_block_says_how_a_run_is_made_to_fit(tmp_path: Path) -> None:
    text = "model: yolo11n.yaml\ndata: made:x\n"
    fitting = load(tmp_path, text).projects[0].fitting
    assert fitting.is_predicted
    assert [rung.value for rung in fitting.ladder.rungs] == [
        "cut", "amp", "checkpointing", "optimizer_8bit", "optimizer_host", "shard",
    ]  # fmt: skip
    words = (
        "memory.predict=false",
        "memory.ladder=[amp, cut, imgsz]",
        "memory.least_imgsz=320",
        "resources.headroom=5%",
    )
    fitting = load(tmp_path, text, *words).projects[0].fitting
    assert not fitting.is_predicted
    assert [rung.value for rung in fitting.ladder.rungs] == ["amp", "cut", "imgsz"]
    assert fitting.ladder.least_imgsz == 320
    assert fitting.headroom.fraction == 0.05
    sized = load(tmp_path, text, "resources.headroom=512MiB").projects[0]
    assert sized.fitting.headroom.num_bytes == 512 << 20
    assert sized.resolved["resources"]["headroom"] == "512MiB"


@pytest.mark.parametrize("model", ["yolo11n.yaml", "timm/resnet18"])
def test_the_memory_block_reaches_the_trainer(tmp_path: Path, model: str) -> None:
    text = f"model: {model}\ndata: made:x\n"

    def options(*words: str) -> Mapping[str, Scalar]:
        (project,) = load(tmp_path, text, *words).projects
        kept = yaml.safe_dump(dict(project.resolved) | {"data": "made:x"})
        (again,) = load(tmp_path, kept).projects
        found = project.template.settings.options
        assert again.template.settings.options == found
        return found

    assert options() == {}
    assert options("memory.adapt=true", "memory.target=0.85") == {}
    assert options("memory.target=1") == {"memory_target": 1.0}
    words = ("memory.adapt=false", "memory.target=0.5")
    assert options(*words) == {"memory_adapt": False, "memory_target": 0.5}
    assert options("memory_target=0.5") == {"memory_target": 0.5}
    light = ("memory.grad_checkpointing=true", "memory.optimizer_state=host")
    assert options(*light) == {"grad_checkpointing": True, "optimizer_state": "host"}
    order = options("memory.ladder=[imgsz, amp]", "memory.least_imgsz=128")
    assert order == {"memory_ladder": "imgsz, amp", "memory_least_imgsz": 128}
    assert memory_options(order)[0].ladder == (Rung.IMGSZ, Rung.AMP)
    assert memory_options(order)[0].least_imgsz == 128
    told, rest = memory_options(options(*words))
    assert (told, rest) == (MemoryOptions(adapt=False, target=0.5), {})
    assert memory_options(options())[0] == MemoryOptions()


def test_auto_is_left_to_a_measurement_where_there_is_one(tmp_path: Path) -> None:
    text = (
        "name: a\nmodel: timm/resnet18\ndata: made:x\nworkers: auto\ncompile: auto\ncache: auto\n"
    )
    (project,) = load(tmp_path, text).projects
    settings = project.template.settings
    assert (settings.workers, settings.cache) == (8, "false")
    assert settings.options == {"auto": "compile, cache, workers"}
    (again,) = load(tmp_path, yaml.safe_dump(dict(project.resolved) | {"data": "made:x"})).projects
    assert again.template.settings == settings
    text = "name: a\nmodel: yolo11n.yaml\ndata: made:x\nworkers: auto\nchannels_last: auto\n"
    (project,) = load(tmp_path, text).projects
    assert project.template.settings.options == {"auto": "channels_last, workers"}
    (again,) = load(tmp_path, yaml.safe_dump(dict(project.resolved) | {"data": "made:x"})).projects
    assert again.template.settings == project.template.settings
    with pytest.raises(ConfigError, match="compile"):
        load(tmp_path, "name: a\nmodel: yolo11n.yaml\ndata: made:x\ncompile: auto\n")
    with pytest.raises(ConfigError, match="workers is not measured by this trainer"):
        load(tmp_path, "name: a\nmodel: x\ntrainer: fake\ndata: made:x\nworkers: auto\n")
    for wrong in ("workers: -1", "workers: many", "channels_last: perhaps"):
        with pytest.raises(ConfigError, match=wrong.split(":")[0]):
            load(tmp_path, f"name: a\nmodel: timm/resnet18\ndata: made:x\n{wrong}\n")


def test_the_ddp_block_tells_the_ranks_how_gradients_travel(tmp_path: Path) -> None:
    text = (
        "name: a\nmodel: timm/resnet18\ndata: made:x\nbatch: 7\nresources: {gpus: 2}\n"
        "ddp: {bucket_mb: 10, compression: fp16, nccl: {NCCL_IB_DISABLE: true}}\n"
    )
    (project,) = load(tmp_path, text, "ddp.nccl.NCCL_DEBUG=INFO").projects
    found = project.template.settings.options
    assert found == {
        "ddp_bucket_mb": 10,
        "ddp_compression": "fp16",
        "ddp_nccl": "NCCL_DEBUG=INFO NCCL_IB_DISABLE=1",
    }
    told, rest = ddp_options(found)
    assert (told.bucket_mb, told.compression) == (10, "fp16")
    assert told.nccl == {"NCCL_IB_DISABLE": "1", "NCCL_DEBUG": "INFO"}
    assert not rest
    (again,) = load(tmp_path, yaml.safe_dump(dict(project.resolved) | {"data": "made:x"})).projects
    assert again.template.settings.options == found
    block = DdpModel.model_validate({})
    assert block.model_dump() == {k: getattr(DdpOptions(), k) for k in DdpModel.model_fields}
    for wrong in ("nccl: {PATH: x}", "compression: zip", "bucket_mb: 0", "nccl: {NCCL_DEBUG: a b}"):
        with pytest.raises(ConfigError, match=r"ddp\."):
            load(tmp_path, f"{text.split('ddp:', maxsplit=1)[0]}ddp: {{{wrong}}}\n")


def test_the_defaults_of_the_memory_block_are_those_of_the_trainers() -> None:
    block, own = MemoryModel.model_validate({}), MemoryOptions()
    assert (block.adapt, block.target) == (own.adapt, own.target)
    assert tuple(map(Rung, block.ladder)) == own.ladder
    assert (block.grad_checkpointing, block.optimizer_state, block.least_imgsz) == (
        own.grad_checkpointing,
        own.optimizer_state,
        own.least_imgsz,
    )


@pytest.mark.parametrize(
    "word",
    [
        "memory.ladder=[cut, cut]",
        "memory.ladder=[cut, imgsz]",
        "memory.ladder=[cut, prayer]",
        "memory.least_imgsz=320",
        "memory.predict=maybe",
        "memory.laddr=[cut]",
        "resources.headroom=-1",
        "resources.headroom=95%",
        "resources.headroom=lots",
        "memory=8GiB",
    ],
)
def test_a_wrong_memory_block_is_named(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "model: yolo11n.yaml\ndata: made:x\nimgsz: 640\n", word)
    assert caught.value.code.startswith("E1")
    assert "memory" in caught.value.what or "headroom" in caught.value.what


@pytest.mark.parametrize(
    ("gpus", "expected"), [(2, (2, None)), ('"1-4"', (4, 1)), ('"4-4"', (4, None))]
)
def test_gpus_are_a_number_or_a_range(
    tmp_path: Path, gpus: object, expected: tuple[int, int | None]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "projects:\n  - {name: a, model: fake, data: none, batch: 8, trainer: fake,"
        f" resources: {{gpus: {gpus}}}}}\n"
    )
    (project,) = load_config(file, ()).projects
    assert (project.template.num_gpus, project.template.min_gpus) == expected


def test_queues_and_the_policy_belong_to_the_cluster(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "cluster: {policy: shortest, queues: {night: {weight: 2, gpus: 4}, day: {}}}\n"
        "projects:\n  - {name: a, model: fake, data: none, batch: 8, trainer: fake}\n"
    )
    config = load_config(file, ())
    assert config.policy == "shortest"
    assert config.queues == (
        QueueRule(name="night", weight=2.0, max_gpus=4.0),
        QueueRule(name="day"),
    )


@pytest.mark.parametrize("wrong", ["gpus: 0", "weight: 0", "weight: -1", "gpu: 1"])
def test_a_queue_that_could_never_run_anything_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        f"cluster: {{queues: {{night: {{{wrong}}}}}}}\n"
        "projects:\n  - {name: a, model: fake, data: none, batch: 8, trainer: fake}\n"
    )
    with pytest.raises(ConfigError, match=r"queues\.night"):
        load_config(file, ())


@pytest.mark.parametrize("head", ["name: a\nmodel: yolo11n.yaml\ndata: made:x\n", "projects: []\n"])
def test_a_file_with_a_sweep_names_the_command_that_conducts_it(tmp_path: Path, head: str) -> None:
    with pytest.raises(ConfigError, match="describes a sweep") as caught:
        load(tmp_path, f"{head}sweep: {{trials: 2, space: {{lr0: [0.1, 0.2]}}}}\n")
    assert caught.value.code == "E1010"
    assert "orc sweep " in caught.value.fix[0]
