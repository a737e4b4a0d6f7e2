"""Starting a Ray on this machine, or joining one that runs; always with an explicit token mode."""

import atexit
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.address import demand_answer
from orchestrator.cluster.few_processes import few_processes
from orchestrator.cluster.guard import TAG_NAME
from orchestrator.cluster.own_groups import own_groups
from orchestrator.cluster.running import LOOPBACK_NAME, RunningRay, read_running
from orchestrator.cluster.tokens import ADMISSION_FIX, token_file
from orchestrator.errors import ClusterError
from orchestrator.types import Bytes, Card, Seconds

__all__ = [
    "RAY_ENVIRONMENT",
    "guarded",
    "joined_ray",
    "local_ray",
    "opened_ray",
    "set_token_mode",
    "token_file",
    "use_token",
]

_FAREWELL_SECONDS: Seconds = 1.0
# Ray refuses less than 75 MB. Nothing larger than a report passes through its object store, and a
# small one also fits the 64 MB of /dev/shm that containers have (Ray then says so and uses a file).
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
# For clusters that we start. Ray's own values notice a dead node after 14 s and a frozen one after
# 65 s; a refused connection fails at once, so a dead node is now noticed within 4 s. The timeout
# stays long enough for a machine that is busy with data loading. GCS (Ray's control process): on
# its death the driver ends after 10 s, instead of 60 s at full CPU.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # today's default, said aloud so that Ray is quiet
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


def use_token(file: Path) -> None:
    """Let this process, and what it starts, show and demand the token in the file."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would take precedence over the file
    _reread_environment()


def opened_ray(
    *,
    cards: Sequence[Card] | None,
    address: str | None,
    num_cpus: int,
    home: Path,
    host_bytes: Bytes | None = None,
    labels: Mapping[str, str] | None = None,
) -> AbstractContextManager[None]:
    """A Ray of this machine's own with these cards; without cards the one at `address`."""
    if cards is None:
        return joined_ray(address or "auto", home=home)
    return local_ray(
        num_cpus=num_cpus, cards=cards, home=home, host_bytes=host_bytes, labels=labels
    )


@contextmanager
def local_ray(
    *,
    num_cpus: int,
    cards: Sequence[Card],
    home: Path,
    host_bytes: Bytes | None = None,
    labels: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """A Ray of this machine's own, ended with the block.

    Call it in the main thread: its processes die with the thread that started them.

    Args:
        num_cpus: CPUs that runs may count on.
        cards: Real or emulated; Ray is told how many there are.
        home: Where the token is kept.
        host_bytes: RAM that runs may count on; None for what is free, as Ray measures it.
        labels: Of its one node, besides those that Ray gives it.

    Raises:
        ClusterError: Ray did not start.
    """
    os.environ.update(RAY_ENVIRONMENT)
    use_token(token_file(home))
    os.environ.pop("RAY_ADDRESS", None)  # it would turn "start one" into "join that one"
    if any(card.is_emulated for card in cards):  # Ray refuses more GPUs than it makes visible
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    with (
        guarded() as folder,
        _connected(
            address="local",
            num_cpus=num_cpus,
            num_gpus=len(cards),
            include_dashboard=False,
            labels=dict(labels or {}),
            object_store_memory=_OBJECT_STORE_BYTES,
            _memory=host_bytes,
            _temp_dir=str(folder),
        ),
    ):
        yield


@contextmanager
def joined_ray(address: str, *, home: Path | None = None) -> Iterator[None]:
    """A Ray that runs already: `auto` finds this machine's, `host:port` names one.

    Args:
        address: Which Ray.
        home: Where `orc up` may have written down the Ray that it started here, with its token.

    Raises:
        ClusterError: It cannot be reached, or refuses the token.
    """
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address} is a Ray Client address, and a driver has to run inside the cluster",
            code="E4002",
            why=("a connection that breaks would end every training",),
            fix=("ray job submit --address http://HEAD:8265 -- orc train CONFIG", "address: auto"),
        )
    running = _started_here(address, home)
    if running is not None:
        address = running.address
        if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            use_token(Path(running.token_path))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # seconds until a refusal is told
    set_token_mode()
    if address != "auto":
        demand_answer(address)
    with _on_loopback(running is not None and running.is_loopback), _connected(address=address):
        yield


def _started_here(address: str, home: Path | None) -> RunningRay | None:
    """The Ray of `orc up`, if it is meant; a job's own Ray (RAY_ADDRESS) goes first."""
    running = None if home is None or os.environ.get("RAY_ADDRESS") else read_running(home)
    if running is None or address not in ("auto", running.address):
        return None
    return running if running.is_answering() else None


@contextmanager
def _on_loopback(is_wanted: bool) -> Iterator[None]:  # noqa: FBT001 - private, called once
    """Let this process show itself under the loopback address, where all of a Ray does."""
    if not is_wanted:
        yield
        return
    before = os.environ.get(LOOPBACK_NAME)
    os.environ[LOOPBACK_NAME] = "0"
    import ray

    constants: Any = ray._private.ray_constants  # read once, and ray may be imported already
    known, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = known
        os.environ.pop(LOOPBACK_NAME)
        if before is not None:
            os.environ[LOOPBACK_NAME] = before


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    import ray

    driver: Any = ray._private.worker  # Ray prints what it thinks of deaths, to standard output
    _reread_environment()
    for name in ("ray", "ray._private.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it says comes as events
    try:
        with own_groups(), few_processes():  # the latter bears on a Ray that is started
            ray.init(
                log_to_driver=False, configure_logging=False, namespace="orchestrator", **options
            )
    except Exception as error:  # where Ray's processes do not start, it raises no narrower class
        raise _refused(str(options["address"]), error) from error
    farewell: threading.Thread | None = None
    printing, driver.print_to_stdstream = driver.print_to_stdstream, _log
    try:
        yield
    except ClusterError:  # Ray is gone, and a farewell would wait for its answer
        atexit.unregister(ray.shutdown)
        farewell = threading.Thread(target=ray.shutdown, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_SECONDS)
        raise
    finally:
        if farewell is None:
            ray.shutdown()
        driver.print_to_stdstream = printing


def _log(data: Mapping[str, Any], **_: object) -> None:
    """What Ray would print on standard output, where results go."""
    logging.getLogger("orchestrator.ray").debug("%s", "\n".join(map(str, data["lines"])))


def _reread_environment() -> None:
    """Ray reads its variables when it is imported, and whoever called us may have done that."""
    import ray

    core: Any = ray._raylet  # no public door: Ray's own set-up of tokens does the same
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def _refused(address: str, error: Exception) -> ClusterError:
    what = "Ray did not start" if address == "local" else f"Ray at {address} cannot be used"
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        texts += [line.strip() for line in str(link).splitlines() if line.strip()]
        link = link.__cause__
    tokens = [line for line in texts if "AuthenticationError" in line or "InvalidAuthToken" in line]
    fixes = (
        [ADMISSION_FIX]
        if address != "local"
        else ["try again; free memory, or end other Rays of this machine, if it happens again"]
    )
    if address == "auto":
        fixes.append("without `cluster.address`, orc starts a Ray of its own")
    mode = f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}"
    why = ["the token is missing or wrong"] if tokens else texts[:2] or [type(error).__name__]
    return ClusterError(what, code="E4003" if tokens else "E4001", why=(*why, mode), fix=fixes)


def set_token_mode() -> None:
    """Say aloud whether a token is shown: Ray left alone reads the file and shows nothing."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    has_token = bool(named) or (Path.home() / ".ray" / "auth_token").exists()
    if not os.environ.get("RAY_AUTH_MODE"):
        os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
    _reread_environment()


@contextmanager
def guarded() -> Iterator[Path]:
    """A folder for Ray, and nothing left of it or of Ray's processes when this process is gone.

    What is started inside belongs to it, however this process ends. The path is short: Unix sockets
    allow 107 characters.
    """
    folder = tempfile.mkdtemp(prefix="orc-")
    if sys.platform != "linux":  # the guard reads /proc
        yield Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return
    tag = secrets.token_hex(8)
    guard = subprocess.Popen(  # noqa: S603 - our own file, run by our own interpreter
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), tag, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={},
        start_new_session=True,  # Ctrl-C is for the driver
    )
    os.environ[TAG_NAME] = tag
    try:
        yield Path(folder)
    finally:
        del os.environ[TAG_NAME]
        guard.communicate()  # closes its input, and waits until it is done
