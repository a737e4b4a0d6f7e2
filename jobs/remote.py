"""Has a config trained by a Ray elsewhere, as a job of its server: `orc submit --address`."""

import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.client.names import new_run_id
from orchestrator.client.upload import MAX_BYTES, Upload, put_together, staged
from orchestrator.cluster.address import job_url, lets_anyone_in
from orchestrator.cluster.job import JobState, JobWish
from orchestrator.cluster.jobs import JobServer, server_of
from orchestrator.config.load import load_config
from orchestrator.console.cluster import warn_open
from orchestrator.console.say import emit, emit_json, say, size_text
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.store.private import check_name
from orchestrator.types import Seconds

__all__ = ["STOP_SECONDS", "RemoteOptions", "stop_remote", "submit_remote"]

STOP_SECONDS: Seconds = 600  # what a stopped job gets to save its epoch; Ray's own value is 3
_HOW = {"SUCCEEDED": "has succeeded", "FAILED": "has failed", "STOPPED": "was stopped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """How a config gets to a cluster.

    Attributes:
        address: Of the job server.
        key: The job's name; the same again is the same job. None makes one.
        working_dir: What is uploaded, less what stays here.
        data_root: Where relative paths of data begin on the cluster; None takes `working_dir`.
        cluster_home: Folder of the store on the cluster; None takes that of its environment.
        excludes: Patterns that stay here.
        includes: Patterns that go along although they would stay here.
        driver_cpus: CPUs for the job's driver; None puts it on the head, uncounted.
    """

    address: str
    key: str | None = None
    working_dir: Path = Path()
    data_root: Path | None = None
    cluster_home: str | None = None
    excludes: Sequence[str] = ()
    includes: Sequence[str] = ()
    driver_cpus: float | None = None


def submit_remote(
    path: Path | None,
    words: Sequence[str],
    options: RemoteOptions,
    *,
    home: Path | None,
    as_json: bool,
    is_waiting: bool,
    is_dry: bool = False,
) -> int:
    """Submit a config as a job, or find the one of this key again; returns the exit code.

    Args:
        path: The config file; None, with a key, follows a job that was submitted before.
        words: `key=value` words over it.
        options: Where to, and what goes along.
        home: The folder of the store here, where `orc up` may have written a token down.
        as_json: How it is told.
        is_waiting: Write the job's output, and return its exit code once it has ended.
        is_dry: List what would be uploaded, and submit nothing.

    Raises:
        ConfigError: The config, a name, or what would be uploaded (E1081 to E1085).
        ClusterError: E4001, E4003, E4009, E4013: the cluster cannot be reached or refuses.
        ConflictError: E5009, the key stands for something else.
        PlanError: E2003, no node has the CPUs for its driver.
    """
    job_url(options.address)
    submission_id = _named(options.key, is_known=path is None)
    if path is None:
        server = server_of(options.address, Client(home).home)
        return _follow(server, submission_id, as_json=as_json, is_waiting=is_waiting)
    upload = _upload(path, words, options)
    if is_dry:
        return _show(upload, as_json=as_json)
    server = server_of(options.address, Client(home).home)
    if lets_anyone_in(server.url):
        warn_open(server.url)
    with tempfile.TemporaryDirectory(prefix="orc-upload-") as folder:
        staged(upload, Path(folder))
        wish = _wish(submission_id, path, words, options, upload, Path(folder))
        is_new = server.submit(wish, say)
    if not as_json:
        known = "submitted" if is_new else "was submitted before"
        say(
            f"job {submission_id} {known}: {len(upload.files)} files, {size_text(upload.num_bytes)}"
        )
        emit(submission_id)
    return _follow(server, submission_id, as_json=as_json, is_waiting=is_waiting, is_new=is_new)


def stop_remote(submission_id: str, address: str, *, home: Path | None, as_json: bool) -> None:
    """Ask a job to stop: its runs end once their epoch is saved, and can be resumed.

    Raises:
        NotFoundError: E5022, there is none of this id.
        ClusterError: As `submit_remote`.
    """
    server = server_of(address, Client(home).home)
    was_running = server.stop(submission_id)
    if as_json:
        emit_json(job=submission_id, stopping=was_running)
    else:
        state = "asked to stop" if was_running else "has ended already"
        say(f"job {submission_id}: {state}; {_again(server, submission_id)}")


def _named(key: str | None, *, is_known: bool) -> str:
    if key is not None:
        return check_name(key, "job")
    if is_known:
        raise ConfigError(
            "neither a config nor a key was given",
            code="E1030",
            fix=("orc submit --address ADDRESS CONFIG", "orc submit --address ADDRESS --key KEY"),
        )
    return f"orc-{new_run_id(time.time())}"


def _upload(path: Path, words: Sequence[str], options: RemoteOptions) -> Upload:
    config = load_config(path, words)
    data = [Path(project.template.settings.data) for project in config.projects]
    runs = config.runs
    return put_together(
        options.working_dir,
        path,
        data=[*(each for each in data if each.is_absolute()), runs],
        excludes=options.excludes,
        includes=options.includes,
    )


def _wish(
    submission_id: str,
    path: Path,
    words: Sequence[str],
    options: RemoteOptions,
    upload: Upload,
    folder: Path,
) -> JobWish:
    name = path.resolve().relative_to(upload.folder).as_posix()
    variables = {
        "ORC_DATA_ROOT": str(options.data_root or upload.folder),
        "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_SECONDS:.0f}",
    }
    if options.cluster_home is not None:
        variables["ORC_HOME"] = options.cluster_home
    # The shell gives way to the driver, which is then who gets Ray's SIGTERM. `orc up` names the
    # interpreter; elsewhere it is the first on the node's PATH.
    entrypoint = f'exec "${{ORC_PYTHON:-python}}" {shlex.join(["-m", "jobs.train", name, *words])}'
    asked = json.dumps([entrypoint, variables, upload.digest, options.driver_cpus], sort_keys=True)
    return JobWish(
        submission_id=submission_id,
        entrypoint=entrypoint,
        folder=folder,
        body=hashlib.sha256(asked.encode()).hexdigest(),
        variables=variables,
        metadata={"orchestrator.config": name},
        num_cpus=options.driver_cpus,
    )


def _show(upload: Upload, *, as_json: bool) -> int:
    if as_json:
        emit_json(
            folder=upload.folder,
            files=[{"name": file.name, "bytes": file.num_bytes} for file in upload.files],
            bytes=upload.num_bytes,
            left_out=dict(upload.left_out),
        )
        return 0
    for file in upload.files:
        emit(f"{size_text(file.num_bytes):>10}  {file.name}")
    say(f"{len(upload.files)} files, {size_text(upload.num_bytes)}; at most {MAX_BYTES >> 20} MiB")
    for reason, number in sorted(upload.left_out.items()):
        say(f"  stays here: {number} of {reason}")
    say("nothing was submitted")
    return 0


def _follow(
    server: JobServer,
    submission_id: str,
    *,
    as_json: bool,
    is_waiting: bool,
    is_new: bool | None = None,
) -> int:
    """Tell how a job is, or write its output to its end; returns the exit code."""
    if not is_waiting:
        return _tell(server, server.state(submission_id), as_json=as_json, is_new=is_new)
    try:
        state = server.follow(submission_id, _write)
    except KeyboardInterrupt:
        say(f"the job goes on; follow it again: {_again(server, submission_id)}")
        say(f"  stop: orc stop {submission_id} --address {server.url}")
        return 130
    except ClusterError as error:
        again = f"{_again(server, submission_id)}, once it answers"
        raise ClusterError(
            error.what, code=error.code, why=error.why, fix=(*error.fix, again)
        ) from error
    return _tell(server, state, as_json=as_json, is_new=is_new)


def _tell(server: JobServer, state: JobState, *, as_json: bool, is_new: bool | None) -> int:
    code = state.exit_code if state.has_ended else 0
    if as_json:
        emit_json(
            job=state.submission_id,
            address=server.url,
            status=state.status,
            is_new=is_new,
            driver_exit_code=state.driver_code,
            error=state.error or None,
            exit_code=code,
        )
        return code
    if state.has_ended:
        detail = f" (exit code {code})" if code else ""
        say(f"job {state.submission_id} {_HOW[state.status]}{detail}")
        if state.error and state.driver_code is None:
            say(f"  {state.error}: {(state.message.splitlines() or [''])[0][:200]}")
    else:
        say(f"job {state.submission_id} is {state.status}")
        say(f"  follow: {_again(server, state.submission_id)}")
    return code


def _again(server: JobServer, submission_id: str) -> str:
    return f"orc submit --address {server.url} --key {submission_id} --wait"


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
