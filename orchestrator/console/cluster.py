"""`orc up` and `orc down`: what runs on this machine, told to a person or as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.client.access import Client
from orchestrator.cluster.down import stop_ray
from orchestrator.cluster.running import RunningRay, read_running
from orchestrator.cluster.up import RayWish, start_ray
from orchestrator.console.say import emit, emit_json, say, size_text
from orchestrator.errors import StoreError

__all__ = ["bring_down", "bring_up", "show_up", "warn_open"]


def bring_up(wish: RayWish, home: Path, *, as_json: bool) -> int:
    """Start what is wished for, unless it runs already, and say what runs; returns the exit code.

    Raises:
        ClusterError, ConfigError: As `start_ray`.
    """
    running, is_new = start_ray(wish, home)
    return _tell(running, is_new=is_new, as_json=as_json)


def show_up(home: Path, *, as_json: bool) -> int:
    """Say what runs here; returns the exit code, 3 where nothing does."""
    running = read_running(home)
    if running is None or not running.processes():
        if as_json:
            emit_json(running=False)
        else:
            say("no Ray of orc up runs here; start one: orc up")
        return 3
    return _tell(running, is_new=False, as_json=as_json)


def bring_down(client: Client, *, now: bool, as_json: bool) -> int:
    """End what `orc up` started here; returns the exit code.

    Raises:
        StoreError: E5041, a driver is at work on this machine's store, and `now` was not said.
        ClusterError: E4008, processes survived.
    """
    driver = client.driver()
    if driver is not None and not now:
        raise StoreError(
            "a driver is at work, and Ray's end would end its trainings",
            code="E5041",
            why=(str(driver),),
            fix=(
                "orc serve --stop: every epoch under way is saved; then orc down",
                "at once, repeating these epochs later: orc down --now",
            ),
        )
    running, num_ended = stop_ray(client.home)
    if as_json:
        emit_json(stopped=_plain(running) if running else None, processes=num_ended)
    elif running is None:
        say("no Ray of orc up runs here")
    else:
        say(f"Ray at {running.address} has ended here: {num_ended} process(es), none is left")
    return 0


def _tell(running: RunningRay, *, is_new: bool, as_json: bool) -> int:
    if as_json:
        emit_json(running=True, started=is_new, **_plain(running))
        return 0
    say("Ray runs" if is_new else "Ray runs already")
    emit(f"address    {running.address}")
    if running.dashboard:
        emit(f"jobs       {running.dashboard}")
    emit(f"token      in {running.token_path}")
    for node in running.nodes:
        cards = ", ".join(node["gpus"]) or "no GPU"
        mark = " (emulated)" if node["emulated"] else ""
        emit(
            f"node       {cards}{mark}; {node['cpus']} CPUs,"
            f" {size_text(node['memory_bytes'])} of RAM; {_labels(node)}"
        )
    if running.dashboard:
        say(f"submit: orc submit --address {running.dashboard} CONFIG --wait   end: orc down")
        if not running.is_loopback:
            say("  the token is not encrypted on its way: a private network, or TLS before it")
            say(f"  more machines: copy the token there, then orc up --address {running.address}")
    return 0


def _plain(running: RunningRay) -> dict[str, Any]:
    return {
        "address": running.address,
        "dashboard": running.dashboard,
        "token_path": running.token_path,
        "nodes": list(running.nodes),
        "started_at": running.started_at,
    }


def warn_open(where: str) -> None:
    """Warn of a Ray that demands no token."""
    say(f"warning: the Ray at {where} demands no token: whoever reaches it runs code on its nodes")
    say("  fix: start it with orc up, or `ray get-auth-token --generate` on its head, and export")
    say("       RAY_AUTH_MODE=token before each `ray start`")


def _labels(node: Mapping[str, Any]) -> str:
    """Those that a person gave, then the card's."""
    own = {key: value for key, value in node["labels"].items() if not key.startswith("orc.")}
    return ", ".join(f"{key}={value}" for key, value in {**own, "orc.card": node["kind"]}.items())
