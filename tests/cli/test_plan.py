"""`orc plan`, `orc recommend` and `orc memory`: JSON, exit codes, what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import plan as job
from jobs.plan import Cards
from orchestrator.cli.app import main
from orchestrator.client.machine import cpu_count
from orchestrator.config.load import load_config
from orchestrator.demo import make
from orchestrator.errors import ConfigError, DataError
from orchestrator.messages import RunSubmitted
from orchestrator.plan.correct import Peak
from orchestrator.store.sql import SqlStore
from orchestrator.trainer.options_auto import kind_of, versions_of
from orchestrator.types import Finding, RunState, Scalar
from tests.contracts.store import attempt, spec, status, telling
from tests.plan.hand_made import GIB, MIB, Lines

HEAVY = Lines(fixed=GIB, slope=90_000 * MIB)  # 900 MiB a picture of 64 px in fp32

FIELDS = {  # the face that others rely on: names are kept, more may be added
    "project": str,
    "model": str,
    "imgsz": int,
    "gpu": str,
    "gpu_memory_bytes": int,
    "effective_batch": int,
    "world_size": int,
    "micro_batch": int,
    "accumulation_steps": int,
    "precision": str,
    "predicted_peak_bytes": int,
    "budget_bytes": int,
    "fits": bool,
    "rungs": list,
    "confidence": str,
    "reason": str,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("digits-classify", tmp_path_factory.mktemp("made"))


@pytest.fixture
def config(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "exp.yaml"
    path.write_text(
        f"projects:\n- name: a\n  model: timm/resnet10t\n  data: {made}\n  imgsz: 64\n"
        f"  batch: 33\n- name: b\n  model: timm/resnet18\n  data: {made}\n  imgsz: 64\n  batch: 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_HOME", str(tmp_path / "home"))
    return path


def plan(path: Path, *names: str, lines: Lines | None = None, **options: Any) -> int:
    cards = Cards(names=names, memory=options.pop("memory", None), is_every=not names)
    if cards.memory:
        cards = Cards(names=names, memory=cards.memory)
    return job.plan(
        path,
        options.pop("words", []),
        cards,
        home=None,
        predictor=lines or Lines(),
        **{"as_json": True, **options},
    )


def plans(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, _ = capsys.readouterr()
    value = json.loads(out)
    assert value["schema_version"] == 1
    found: list[dict[str, Any]] = value["plans"]
    return found


def test_json_has_one_entry_a_project_and_card_with_the_agreed_fields(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, "RTX 2060 6GB, RTX 4090", "A100 PCIe 80GB") == 0
    found = plans(capsys)
    assert [(p["project"], p["gpu"]) for p in found] == [
        (project, gpu) for project in "ab" for gpu in ("RTX 2060", "RTX 4090", "A100 PCIe 80GB")
    ]
    for each in found:
        assert {name: type(each[name]) for name in FIELDS} == FIELDS
        assert each["fits"] == (each["predicted_peak_bytes"] <= each["budget_bytes"])
        assert each["accumulation_steps"] == -(-each["effective_batch"] // each["micro_batch"])
        assert each["confidence"] == "predicted"


def test_it_says_whether_all_projects_fit_on_one_card_together(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def both(name: str, lines: Lines) -> Any:
        assert plan(config, name, lines=lines) == 0
        out = json.loads(capsys.readouterr().out)
        (found,) = out["together"]
        shares = [each["share_bytes"] for each in out["plans"]]
        assert (found["gpu"], found["shares_bytes"]) == (name, sum(shares))
        assert found["fits"] == (sum(shares) <= found["room_bytes"] == found["gpu_memory_bytes"])
        return found

    assert both("RTX 4090", Lines(fixed=3 * GIB))["starting"] == ["a", "b"]
    tight = both("RTX 2060", Lines(fixed=3 * GIB))
    assert (tight["starting"], tight["waiting"]) == (["a"], ["b"])
    assert plan(config, "RTX 2060", lines=Lines(fixed=3 * GIB), as_json=False) == 0
    assert "b would wait until one has ended" in capsys.readouterr().out
    assert plan(config, "RTX 4090", lines=Lines(fixed=3 * GIB), as_json=False) == 0
    assert "all 2 projects fit on one RTX 4090 together" in capsys.readouterr().out


def test_every_card_of_the_catalogue_keeps_the_batch(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, lines=HEAVY) == 0
    found = plans(capsys)
    assert len(found) > 100
    assert {p["effective_batch"] for p in found if p["project"] == "a"} == {33}
    cards = sorted((p for p in found if p["project"] == "a"), key=lambda p: p["budget_bytes"])
    same = [p for p in cards if p["precision"] == "bf16" and p["gpu"].startswith("RTX 40")]
    sizes = [p["micro_batch"] for p in same]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


def test_a_limit_by_hand_stands_alone_or_on_a_card(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, memory="8GiB") == 0
    assert {p["budget_bytes"] for p in plans(capsys)} == {8 * GIB}
    assert plan(config, "RTX 4090", memory="8GiB") == 0
    assert {(p["gpu"], p["budget_bytes"]) for p in plans(capsys)} == {("RTX 4090", 8 * GIB)}


def test_5_where_a_project_fits_on_no_card_and_what_would_is_said(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, "RTX 2060", lines=Lines(fixed=9 * GIB)) == 5
    assert not any(p["fits"] for p in plans(capsys))
    heavy = Lines(fixed=9 * GIB, slope=MIB)
    assert plan(config, "RTX 2060", lines=heavy, as_json=False) == 5
    out, err = capsys.readouterr()
    assert "a card with" in out
    assert err == ""


def test_a_plan_for_people_names_the_cut_and_what_holds_the_bytes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, "RTX 2060", lines=HEAVY, as_json=False, verbose=True) == 0
    out, _ = capsys.readouterr()
    for word in ("RTX 2060", "pieces", "BatchNorm", "weights", "context", "model.0", "predicted"):
        assert word in out
    assert "nothing was started" in out
    assert "may give up, in this order: cut, amp, checkpointing" in out


def test_a_written_config_trains_as_planned_and_is_never_overwritten_unasked(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "planned.yaml"
    assert plan(config, "RTX 2060", lines=HEAVY, write=target) == 0
    planned = {p["project"]: p for p in plans(capsys)}
    for project in load_config(target).projects:
        assert project.template.micro_batch == planned[project.name]["micro_batch"]
        assert project.template.effective_batch == planned[project.name]["effective_batch"]
    assert yaml.safe_load(target.read_text())["projects"][0]["micro_batch"] < 33
    with pytest.raises(ConfigError, match="exists"):
        plan(config, "RTX 2060", lines=HEAVY, write=target)
    assert plan(config, "RTX 2060", lines=HEAVY, write=target, force=True) == 0


@pytest.fixture
def several(config: Path, made: Path) -> Path:
    config.write_text(
        f"name: a\nmodel: timm/resnet10t\ndata: {made}\nbatch: 33\nfolds: 3\n"
        "stages: [{name: small, imgsz: 32}, {name: full, imgsz: 128}]\n"
    )
    return config


def test_the_memory_of_each_stage_is_planned_apart_and_folds_are_counted(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(several, "RTX 2060", lines=Lines(fixed=GIB)) == 0
    out = json.loads(capsys.readouterr().out)
    small, full = out["plans"]
    assert [p["stage"] for p in (small, full)] == ["1/2 small", "2/2 full"]
    assert [p["imgsz"] for p in (small, full)] == [32, 128]
    assert {p["project"] for p in (small, full)} == {"a"}
    assert {p["num_folds"] for p in (small, full)} == {3}
    assert small["predicted_peak_bytes"] < full["predicted_peak_bytes"]
    (together,) = out["together"]
    assert together["shares_bytes"] == 3 * full["share_bytes"]
    assert plan(several, "RTX 2060", lines=Lines(fixed=GIB), as_json=False) == 0
    told = capsys.readouterr().out
    assert "a stage 1/2 small (3 folds): timm/resnet10t, 32 px" in told
    assert "a stage 2/2 full x " in told


def test_a_written_config_has_the_cut_of_each_stage(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "planned.yaml"
    assert plan(several, "RTX 2060", lines=HEAVY, write=target) == 0
    planned = {p["stage"]: p["micro_batch"] for p in plans(capsys)}
    found = load_config(target)
    assert [p.template.micro_batch for p in found.projects] == list(planned.values())
    assert planned["1/2 small"] > planned["2/2 full"]
    assert [p.folds.k for p in found.projects if p.folds] == [3, 3]


def test_folds_that_cannot_be_made_are_refused_before_anything_is_planned(several: Path) -> None:
    with pytest.raises(DataError, match="there are 10 groups"):
        plan(several, "RTX 2060", words=["folds.k=11", r"folds.by='(\d)\.png$'"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--gpu", "RTX 2061"], "E1050"),
        (["--gpu", "RTX 2060", "--all-gpus"], "E1061"),
        (["--memory", "lots"], "E1060"),
        (["--memory", "1MiB"], "E1060"),
        (["--memory", "-8GiB"], "E1060"),
        (["--gpu", "RTX 2060", "micro_batch=99"], "E1018"),
    ],
)
def test_2_what_cannot_be_asked(
    config: Path, words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(config), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error[{code}]")
    assert "\n  fix   " in err


def test_3_and_2_of_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nowhere.yaml", "--gpu", "RTX 2060"]) == 3
    words = ["model=yolo11n.yaml", "data=nothing.yaml", "--gpu", "RTX 2060"]
    assert main(["plan", *words]) == 2
    assert "E3001" in capsys.readouterr().err


def test_the_largest_inference_batch_grows_with_the_card(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, "RTX 2060", "RTX 4090", lines=HEAVY, is_inference=True) == 0
    rows = json.loads(capsys.readouterr().out)["inference"]
    own = [row["batch"] for row in rows if row["project"] == "a"]
    assert 1 <= own[0] < own[1] <= 1024
    assert all(row["predicted_peak_bytes"] <= row["budget_bytes"] for row in rows)


def test_recommendations_carry_reason_and_confidence(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = Cards(names=["RTX 3060 12GB"])
    assert job.recommend(config, [], cards, home=None, as_json=True, predictor=Lines()) == 0
    rows = json.loads(capsys.readouterr().out)["recommendations"]
    own = {row["key"]: row for row in rows if row["gpu"].startswith("a ")}
    assert {"batch", "micro_batch", "amp", "workers", "cache", "PYTORCH_ALLOC_CONF"} <= set(own)
    assert all(row["reason"] for row in rows)
    assert {row["confidence"] for row in rows} <= {"measured", "predicted", "table"}
    assert own["amp"]["value"] == "bf16"


def measured(name: str, value: Scalar, *, batch: int, is_measured: bool = True) -> Finding:
    """What a run of project a would have found on an emulated card of this machine."""
    settings = load_config(Path("exp.yaml"), []).projects[0].template.settings
    kind = kind_of(
        name,
        settings,
        micro_batch=batch,
        num_cpus=cpu_count(),
        versions=versions_of("timm"),
        is_on_cpu=True,
    )
    return Finding(
        trainer="timm",
        card="RTX 3060 (emulated)",
        model="timm/resnet10t",
        kind=kind,
        name=name,
        value=value,
        told="1.31 times as fast",
        is_measured=is_measured,
    )


def remember(home: Path, *found: Finding) -> None:
    with SqlStore(str(home / "orchestrator.db")) as store, store.drive("test"):
        store.append(RunSubmitted(at=1.0, spec=spec()))
        store.publish([status(attempt=1, state=RunState.RUNNING)])
        assert store.append(telling(attempt(1), *found))


def test_what_runs_have_measured_goes_before_what_rules_say(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(
        tmp_path / "home",
        measured("workers", 3, batch=33),
        measured("compile", True, batch=33),
        measured("pin_memory", False, batch=33, is_measured=False),
        measured("cache", "ram", batch=4),
    )
    words = ["cluster.emulate=[RTX 3060 12GB]"]
    assert job.recommend(config, words, Cards(), home=None, as_json=True, predictor=Lines()) == 0
    rows = json.loads(capsys.readouterr().out)["recommendations"]
    own = {row["key"]: row for row in rows if row["gpu"].startswith("a ")}
    assert own["micro_batch"]["value"] == "33"
    told = {key: (own[key]["value"], own[key]["confidence"]) for key in ("workers", "compile")}
    assert told == {"workers": ("3", "measured"), "compile": ("true", "measured")}
    assert "1.31 times as fast" in own["workers"]["reason"]
    assert own["cache"]["confidence"] == "predicted"  # measured for another cut
    assert "pin_memory" not in own  # its trial failed
    other = {row["key"]: row["confidence"] for row in rows if row["gpu"].startswith("b ")}
    assert other["workers"] == "table"


def test_settings_that_were_tried_are_shown_and_forgotten(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["memory", "choices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert main(["memory", "choices", "--forget", "timm/resnet10t"]) == 0
    assert "nothing was tried yet" in capsys.readouterr().out
    assert not home.exists()
    remember(home, measured("channels_last", True, batch=33))
    assert main(["memory", "choices"]) == 0
    out = capsys.readouterr().out
    assert "timm/resnet10t" in out
    assert "channels_last" in out
    assert "1.31 times as fast" in out
    assert main(["memory", "choices", "--forget", "timm/resnet10t", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["findings"] == []
    assert "forgot 1 setting" in told.err


def test_recommend_without_a_config_is_about_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "--gpu", "GTX 1660 Ti", "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["recommendations"]}
    assert rows["amp"]["confidence"] == "table"
    assert "micro_batch" not in rows
    assert main(["recommend", "--emulate-gpus", "RTX 2060", "--json"]) == 0
    assert "RTX 2060" in capsys.readouterr().out


def test_the_book_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert main(["memory", "book", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peaks"] == []
    assert not home.exists()
    peak = Peak(
        trainer="timm", model="resnet18", imgsz=64, micro_batch=8, precision="fp32",
        optimizer="AdamW", card="RTX 2060", is_emulated=True, versions="torch=2",
        peak_bytes=GIB, steps=9, predicted_bytes=GIB, attempt="r#1",
    )  # fmt: skip
    with SqlStore(str(home / "orchestrator.db")) as store:
        store.record_peak(peak)
    assert main(["memory", "book", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert "RTX 2060 (emulated)" in out
    assert "1.00 x" in out


def test_a_real_prediction_is_traced_once_and_kept(
    config: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f"model: timm/resnet18\ndata: {made}\nimgsz: 64\nbatch: 8\n")
    words = ["plan", str(config), "--gpu", "RTX 2060", "--json"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "predicting memory" in first.err
    assert main(words) == 0
    second = capsys.readouterr()
    assert second.err == ""
    assert second.out == first.out
    (plan,) = json.loads(first.out)["plans"]
    # 11.2 million parameters of four bytes, two of them for each in AdamW.
    assert plan["parts"]["optimizer"] == pytest.approx(2 * 4 * 11.18e6, rel=0.02)
    parts = sum(size for name, size in plan["parts"].items() if name != "context")
    assert parts == pytest.approx(plan["allocated_bytes"], rel=0.02)
