"""Processes of a fork server: what they are given and give back, and who ends with whom."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import forked as script
from orchestrator.cluster.fork_server import ForkServer, fork_server
from orchestrator.cluster.forked import SERVER_NAME, exit_code, forked, run_forked

SERVER = """
import sys
from orchestrator.cluster.fork_server import become, serve
job = serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), lambda: __import__("tarfile"))
if job is not None:
    become(job)
"""
TELLS = """
import os, random, sys
print(sys.stdin.read(), sys.argv[1:], os.environ["HERE"], os.getcwd(), "tarfile" in sys.modules)
print(random.random(), os.getpid(), "HOME" in os.environ)
sys.stderr.write("and complains")
sys.exit(3)
"""
WAITS = """
import os, signal, sys
os.write(1, f"{os.getpid()} ".encode())
signal.pause()
"""
STARTS = """
import signal, subprocess, sys
import psutil
from orchestrator.cluster.fork_server import fork_server
with fork_server([sys.executable, "-c", sys.argv[1]]) as found:
    (server,) = psutil.Process().children()
    waits = [sys.executable, "-c", "import signal; signal.pause()"]
    holder = subprocess.Popen(waits, stdout=subprocess.DEVNULL, pass_fds=(found.lifeline,))
    print(found.path, server.pid, holder.pid, flush=True)
    signal.pause()
"""


IN_STAGES = """
import os, sys
from pathlib import Path
from orchestrator.cluster.fork_server import become, serve
folder = Path(sys.argv[1])
job = serve(
    *(int(sys.argv[2]), sys.argv[3], int(sys.argv[4])),
    (folder / "asked").read_text,  # until somebody has asked
    later=[(folder / "forked").read_text, lambda: __import__("tarfile")],
    early=(str(folder / "early.py"),),
)
if job is not None:
    become(job)
"""
EARLY = """
import sys
from pathlib import Path
print("tarfile" in sys.modules)
Path("forked").write_text("the server imports the rest only now")
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with fork_server([sys.executable, "-c", SERVER]) as found:
        yield found


@pytest.fixture
def waiting(server: ForkServer, tmp_path: Path) -> Iterator[tuple[socket.socket, psutil.Process]]:
    """A forked process that waits to be ended, and the connection of who asked for it."""
    read, write = os.pipe()
    with Path(os.devnull).open("w+b") as nothing:
        files = (nothing.fileno(), write, nothing.fileno())
        words = [str(written(tmp_path, WAITS))]
        asked = forked(server.path, words, environment={}, folder=str(tmp_path), files=files)
    os.close(write)
    process = psutil.Process(int(os.read(read, 64)))
    os.close(read)
    with asked:
        yield asked, process
    if process.is_running():
        process.kill()


def written(folder: Path, text: str) -> Path:
    path = folder / "job.py"
    path.write_text(text)
    return path


def told(server: ForkServer, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = [str(written(folder, TELLS)), "one", "two"]
    return run_forked(
        server.path,
        words,
        text="asked",
        environment={"HERE": "there"},
        folder=str(folder),
        timeout=30.0,
    )


def test_a_process_has_words_input_variables_folder_and_what_was_imported_ahead(
    server: ForkServer, tmp_path: Path
) -> None:
    done = told(server, tmp_path)
    first, second = done.stdout.splitlines()
    assert first == f"asked ['one', 'two'] there {tmp_path} True"
    assert second.endswith("False")
    assert done.stderr == "and complains"
    assert done.returncode == 3


def test_a_process_that_others_wait_for_is_forked_before_the_rest_is_imported(
    tmp_path: Path,
) -> None:
    late, early = written(tmp_path, TELLS), tmp_path / "early.py"
    early.write_text(EARLY)
    for name in ("asked", "forked"):
        os.mkfifo(tmp_path / name)
    variables = {"HERE": "here", "PATH": os.environ["PATH"]}
    outputs = [(tmp_path / name).open("w+b") for name in ("late.out", "early.out")]
    with (
        fork_server([sys.executable, "-c", IN_STAGES, str(tmp_path)]) as server,
        ExitStack() as all_,
    ):
        asked = []
        for job, output in zip((late, early), outputs, strict=True):
            files = (all_.enter_context(Path(os.devnull).open("rb")).fileno(), output.fileno(), 2)
            connection = forked(
                server.path, [str(job)], environment=variables, folder=str(tmp_path), files=files
            )
            asked.append(all_.enter_context(connection))
        (tmp_path / "asked").write_text("by both")
        assert [exit_code(connection) for connection in reversed(asked)] == [0, 3]
    for output in outputs:
        output.seek(0)
    told_late, told_early = (output.read().decode() for output in outputs)
    assert told_early == "False\n"
    assert told_late.splitlines()[0].endswith("True")
    for output in outputs:
        output.close()


def test_processes_do_not_share_their_chance(server: ForkServer, tmp_path: Path) -> None:
    lines = [told(server, tmp_path).stdout.splitlines()[1].split() for _ in range(2)]
    assert lines[0][0] != lines[1][0]
    assert lines[0][1] != lines[1][1]


@pytest.mark.parametrize(
    ("text", "code", "out", "complaint"),
    [
        ("print('a')", 0, "a\n", ""),
        ("import sys\nsys.exit('no')", 1, "", "no\n"),
        ("import sys\nsys.exit(300)", 44, "", ""),
        ("import atexit\natexit.register(print, 'last')\nprint('first')", 0, "first\nlast\n", ""),
        (
            "from concurrent.futures import ThreadPoolExecutor as Pool\n"
            "pool = Pool(1)\n"
            "for number in range(5000):\n"
            "    pool.submit(print, number)",
            0,
            "".join(f"{number}\n" for number in range(5000)),
            "",
        ),
    ],
)
def test_a_process_ends_as_python_would(
    server: ForkServer, tmp_path: Path, text: str, code: int, out: str, complaint: str
) -> None:
    job = written(tmp_path, text)
    done = run_forked(
        server.path, [str(job)], text="", environment={}, folder=str(tmp_path), timeout=30.0
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, complaint)


def test_a_process_that_fails_tells_how(server: ForkServer, tmp_path: Path) -> None:
    job = written(tmp_path, "raise ValueError('wrong')")
    done = run_forked(
        server.path, [str(job)], text="", environment={}, folder=str(tmp_path), timeout=30.0
    )
    assert done.returncode == 1
    assert "ValueError: wrong" in done.stderr


def test_a_module_is_run_as_python_would(server: ForkServer, tmp_path: Path) -> None:
    done = run_forked(
        server.path,
        ["-m", "json.tool", "--compact"],
        text='{"a": 1}',
        environment={},
        folder=str(tmp_path),
        timeout=30.0,
    )
    assert (done.returncode, done.stdout) == (0, '{"a":1}\n')


def test_a_process_is_killed_with_who_asked_for_it(
    waiting: tuple[socket.socket, psutil.Process],
) -> None:
    asked, process = waiting
    asked.close()
    assert process.wait(30.0) in (-signal.SIGKILL, None)


def test_a_process_has_a_group_of_its_own_which_can_be_ended(
    waiting: tuple[socket.socket, psutil.Process],
) -> None:
    asked, process = waiting
    os.killpg(process.pid, signal.SIGTERM)
    assert exit_code(asked) == -signal.SIGTERM


def test_who_asked_is_told_of_a_death(waiting: tuple[socket.socket, psutil.Process]) -> None:
    asked, process = waiting
    process.kill()
    assert exit_code(asked) == -signal.SIGKILL


def test_processes_end_with_their_server(
    server: ForkServer, waiting: tuple[socket.socket, psutil.Process]
) -> None:
    asked, process = waiting
    parent = process.parent()
    assert parent is not None
    parent.kill()
    assert exit_code(asked) is None
    process.wait(30.0)
    with pytest.raises(OSError, match="refused"):
        forked(server.path, [], environment={}, folder="/")


def test_a_server_outlives_who_started_it_for_as_long_as_another_holds_its_lifeline(
    tmp_path: Path,
) -> None:
    starts = [sys.executable, "-c", STARTS, SERVER]
    with subprocess.Popen(starts, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        path, server_pid, holder_pid = starter.stdout.readline().decode().split()
        server, holder = psutil.Process(int(server_pid)), psutil.Process(int(holder_pid))
        starter.kill()
        starter.wait()
        assert told(ForkServer(path, -1), tmp_path).returncode == 3
    holder.kill()
    server.wait(30.0)
    assert not Path(path).parent.exists()


def test_what_takes_too_long_is_killed_and_its_output_is_kept(
    server: ForkServer, tmp_path: Path
) -> None:
    told(server, tmp_path)  # it is up
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_forked(
            server.path,
            [str(written(tmp_path, WAITS))],
            text="",
            environment={},
            folder=str(tmp_path),
            timeout=1.0,
        )
    with suppress(psutil.NoSuchProcess):  # it has gone already
        psutil.Process(int(caught.value.output)).wait(30.0)


@pytest.mark.parametrize("name", ["no server", None])
def test_without_a_server_the_script_becomes_the_worker(name: str | None, tmp_path: Path) -> None:
    worker = written(tmp_path, "import sys\nprint(sys.argv[1:])\n")
    environment = {**os.environ, SERVER_NAME: name} if name else dict(os.environ)
    done = subprocess.run(
        [sys.executable, script.__file__, str(worker), "--node-id=1", "--language=PYTHON"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == "['--node-id=1']\n"


def test_what_ray_has_to_set_up_first_goes_to_rays_own_script(tmp_path: Path) -> None:
    (tmp_path / "setup_worker.py").write_text("import sys\nprint('ray', len(sys.argv))\n")
    words = [str(tmp_path / "default_worker.py"), "--serialized-runtime-env-context={}"]
    done = subprocess.run(
        [sys.executable, script.__file__, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ray 3\n"


def test_the_script_stays_as_long_as_its_worker_and_ends_as_it_did(
    server: ForkServer, tmp_path: Path
) -> None:
    worker = written(tmp_path, "import os\nprint(os.getppid())\nraise SystemExit(5)\n")
    done = subprocess.run(
        [sys.executable, script.__file__, str(worker), "--language=PYTHON"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, SERVER_NAME: server.path},
    )
    assert done.returncode == 5
    assert int(done.stdout) != os.getpid()
