"""Jobs on a real head with a token, started by `orc up`: how each ends, and what is said."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.client.access import Client
from orchestrator.cluster.running import read_running
from orchestrator.types import RunState

pytestmark = pytest.mark.ray

CONFIG = """\
projects:
  - {name: %s, trainer: fake, model: fake, data: none, epochs: 3, epoch_seconds: 0.2}
"""
CARDS = "RTX 2060 6GB, RTX 4090"


@dataclass(frozen=True)
class Head:
    """A Ray of `orc up`, and the folder of a project that is submitted to it."""

    home: Path
    project: Path
    url: str
    told: dict[str, Any]

    def variables(self, **more: str) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        return {**kept, "ORC_HOME": str(self.home), "ORC_CONFIG": "none", **more}

    def orc(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.project,
            env=self.variables(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def submit(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.orc("submit", "--address", self.url, *words, **more)

    def config(self, name: str) -> str:
        (self.project / f"{name}.yaml").write_text(CONFIG % name)
        return f"{name}.yaml"

    def following(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "submit", "--address", self.url, *words],
            cwd=self.project,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    base = tmp_path_factory.mktemp("jobs")
    project, home = base / "project", base / "home"
    project.mkdir()
    made = Head(home, project, "", {})
    up = made.orc("up", "--emulate-gpus", CARDS, "--cpus", "2", "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    yield Head(home, project, told["dashboard"], told)
    made.orc("down", "--now")


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses on which any of the processes listens."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_up_starts_a_node_a_kind_of_card_with_a_token_on_the_loopback_alone(head: Head) -> None:
    assert head.told["started"]
    assert [node["gpus"] for node in head.told["nodes"]] == [["RTX 2060"], ["RTX 4090"]]
    token = Path(head.told["token_path"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    running = read_running(head.home)
    assert running is not None
    assert listening(running.processes()) == {"127.0.0.1"}
    again = head.orc("up", "--emulate-gpus", CARDS, "--cpus", "2", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {**head.told, "started": False}
    other = head.orc("up", "--emulate-gpus", "RTX 3060")
    assert other.returncode == 6
    assert "E4011" in other.stderr
    assert (
        token.read_text()
        not in again.stdout + other.stderr + (head.home / "logs" / "up.log").read_text()
    )


def test_another_machine_joins_with_the_token_and_leaves_alone(head: Head, tmp_path: Path) -> None:
    words = ("up", "--address", head.told["address"], "--emulate-gpus", "RTX 3060", "--cpus", "1")
    home = ("--home", str(tmp_path / "other"))
    without = head.orc(*words, *home)
    assert (without.returncode, "E4003" in without.stderr) == (6, True), without.stderr
    wrong = head.orc(*words, *home, RAY_AUTH_TOKEN="0" * 64)
    assert (wrong.returncode, "E4003" in wrong.stderr) == (6, True), wrong.stderr
    joined = head.orc(*words, *home, "--json", RAY_AUTH_TOKEN_PATH=head.told["token_path"])
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["dashboard"] is None
    own = read_running(tmp_path / "other")
    assert own is not None
    assert len(own.processes()) >= 1
    heads = read_running(head.home)
    assert heads is not None
    before = {process.pid for process in heads.processes()}
    left = head.orc("down", *home)
    assert left.returncode == 0, left.stderr
    assert own.processes() == []
    assert before <= {process.pid for process in heads.processes()}


def test_a_job_that_succeeds_is_found_again_by_its_key_and_nothing_else_is(head: Head) -> None:
    config = head.config("good")
    done = head.submit(config, "--key", "good", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["is_new"], told["exit_code"]) == ("SUCCEEDED", True, 0)
    assert "epoch 3/3" in done.stderr, "its output is written"
    (run,) = Client(head.home).runs("good")
    assert run.state is RunState.SUCCEEDED
    assert Path(run.folder).is_relative_to(head.home), "what Ray unpacked is removed with the job"
    assert run.gpu
    again = head.submit(config, "--key", "good", "--wait", "--json")
    assert (again.returncode, json.loads(again.stdout)["is_new"]) == (0, False)
    assert head.submit("--key", "good", "--wait").returncode == 0
    changed = head.submit(config, "epochs=4", "--key", "good")
    assert changed.returncode == 2
    assert "E5009" in changed.stderr
    missing = head.submit("--key", "never-asked")
    assert (missing.returncode, "E5022" in missing.stderr) == (3, True)
    assert len(Client(head.home).runs("good")) == 1


def test_a_run_that_fails_fails_the_job_with_its_own_exit_code(head: Head) -> None:
    failed = head.submit(head.config("bad"), "fail_at_epoch=2", "--wait")
    assert failed.returncode == 1, failed.stderr
    assert "has failed (exit code 1)" in failed.stderr
    assert Client(head.home).runs("bad")[0].state is RunState.FAILED


def test_a_run_that_no_node_can_hold_ends_with_5_and_leaves_nothing_behind(head: Head) -> None:
    never = head.submit(head.config("huge"), "resources.gpu_type=[A100]", "--wait")
    assert never.returncode == 5, never.stderr
    assert "E2001" in never.stderr
    assert Client(head.home).runs("huge") == ()
    cpus = head.submit(head.config("huge"), "--driver-cpus", "64")
    assert cpus.returncode == 5, cpus.stderr
    assert "E2003" in cpus.stderr


def test_a_stopped_job_is_no_success_and_its_run_is_saved_and_goes_on(head: Head) -> None:
    waiting = head.following(head.config("long"), "epochs=3000", "--key", "long", "--wait")
    assert waiting.stderr is not None
    assert any("epoch 3/3000" in line for line in waiting.stderr)
    asked = head.orc("stop", "long", "--address", head.url)
    assert asked.returncode == 0, asked.stderr
    rest = waiting.communicate(timeout=120)[1]
    assert waiting.returncode == 9, rest
    assert "was stopped" in rest
    record = Client(head.home).show("long")
    assert record.run.state is RunState.CANCELLED
    assert record.checkpoints[0].epoch == record.run.epoch >= 3, "the epoch under way was saved"
    assert Client(head.home).resume("long") == (record.run.id,), "it can go on"
    Client(head.home).stop("long")


def test_jobs_share_a_driver_and_one_goes_on_when_another_s_is_stopped(head: Head) -> None:
    first = head.following(head.config("first"), "epochs=3000", "--key", "first", "--wait")
    assert first.stderr is not None
    assert any("epoch 1/3000" in line for line in first.stderr)
    second = head.following(head.config("second"), "epochs=40", "--key", "second", "--wait")
    assert second.stderr is not None
    assert any("epoch 1/40" in line for line in second.stderr), "the first one's driver trains it"
    assert head.orc("stop", "first", "--address", head.url).returncode == 0
    first.communicate(timeout=120)
    assert first.returncode == 9
    rest = second.communicate(timeout=240)[1]
    assert "goes on as their driver" in rest
    assert second.returncode == 0, rest
    states = {run.project: run.state for run in Client(head.home).runs()}
    assert states["first"] is RunState.CANCELLED
    (run,) = Client(head.home).runs("second")
    assert run.state is RunState.SUCCEEDED
    epochs = [progress.epoch for progress in Client(head.home).show(run.id).progress]
    assert epochs == list(range(1, 41)), "none twice, none lost"


def test_ctrl_c_ends_the_following_only(head: Head) -> None:
    waiting = head.following(head.config("left"), "epochs=20", "--key", "left", "--wait")
    assert waiting.stderr is not None
    assert any("epoch 1/20" in line for line in waiting.stderr)
    waiting.send_signal(signal.SIGINT)
    rest = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == 130, rest
    assert "--key left --wait" in rest
    assert head.submit("--key", "left", "--wait").returncode == 0


def test_ray_s_own_command_trains_too_and_tells_less(head: Head) -> None:
    def plain(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        where = ["--address", head.url, "--submission-id", name, "--working-dir", "."]
        entry = ["python", "-m", "jobs.train", head.config(name), *words]
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": head.told["token_path"]}
        return subprocess.run(
            [*ray, *where, "--", *entry],
            cwd=head.project,
            env=head.variables(**token),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    good = plain("plain")
    assert good.returncode == 0, good.stdout + good.stderr
    (run,) = Client(head.home).runs("plain")
    assert run.state is RunState.SUCCEEDED
    assert Path(run.folder).is_relative_to(head.home)
    never = plain("never", "resources.gpu_type=[A100]")
    assert never.returncode == 1, never.stdout + never.stderr
    assert head.submit("--key", "never").returncode == 5, "what it meant"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_without_the_token_nobody_gets_in(head: Head, token: str, tmp_path: Path) -> None:
    more = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    refused = head.submit(head.config("good"), "--home", str(tmp_path), **more)
    assert refused.returncode == 6, refused.stderr
    assert "E4003" in refused.stderr
    assert "RAY_AUTH_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr
    real = Path(head.told["token_path"]).read_text()
    assert real not in refused.stderr
    assert not token or token not in refused.stderr


def test_what_is_uploaded_is_listed_and_nothing_is_submitted(head: Head) -> None:
    (head.project / "best.pt").write_bytes(b"0" * 64)
    listed = head.submit(head.config("good"), "--dry-run", "--json")
    assert listed.returncode == 0, listed.stderr
    told = json.loads(listed.stdout)
    names = [file["name"] for file in told["files"]]
    assert "good.yaml" in names
    assert "best.pt" not in names


def test_down_ends_exactly_its_processes_and_who_waits_is_told(head: Head) -> None:
    """The last of the module: nothing runs afterwards."""
    running = read_running(head.home)
    assert running is not None
    waiting = head.following(head.config("late"), "epochs=3000", "--key", "late", "--wait")
    assert waiting.stderr is not None
    assert any("epoch 1/3000" in line for line in waiting.stderr)
    refused = head.orc("down")
    assert refused.returncode == 1
    assert "E5041" in refused.stderr
    token = Path(running.token_path).read_bytes()
    files = [*Path(running.folder).rglob("*"), *head.home.rglob("*"), *head.project.rglob("*")]
    told = [f for f in files if f.is_file() and not f.is_symlink() and token in f.read_bytes()]
    assert told == [Path(running.token_path)], "no log, record or upload has the token"
    before = running.processes()
    down = head.orc("down", "--now", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["processes"] >= len(before)
    assert not any(process.is_running() for process in before)
    assert running.processes() == []
    rest = waiting.communicate(timeout=180)[1]
    assert waiting.returncode == 6, rest
    assert "E4001" in rest
    assert head.orc("up", "--status").returncode == 3
    gone = head.submit(head.config("good"))
    assert (gone.returncode, "E4001" in gone.stderr) == (6, True)
    assert not Client(head.home).runs("late")[0].state.is_terminal, "the next driver goes on"
