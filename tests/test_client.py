"""The Python API: asking is durable and idempotent, reading needs no driver."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator.client.access import Client, fingerprint, new_run_id
from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.types import RunId, RunState
from tests.cli.stored import drive_store, make_spec, make_store


def again(name: str, number: int) -> RunId:
    return RunId(f"20261121-05000{number}-other-fox-{name}")


def test_the_public_names_are_importable() -> None:
    assert orchestrator.Client is Client
    assert all(getattr(orchestrator, name) for name in orchestrator.__all__)
    with pytest.raises(AttributeError):
        _ = orchestrator.nothing  # type: ignore[attr-defined, unused-ignore] # it is absent on purpose


@given(at=st.floats(0, 4e9))
def test_run_ids_have_the_told_form_and_sort_by_time(at: float) -> None:
    form = r"\d{8}-\d{6}-[a-z]+-[a-z]+-[0-9a-f]{4}"
    assert re.fullmatch(form, new_run_id(at))
    assert new_run_id(at) < new_run_id(at + 2)


def test_asking_twice_with_one_key_is_asking_once(tmp_path: Path) -> None:
    client = Client(tmp_path)
    spec = make_spec("one")
    copy = replace(
        spec, run_id=again("one", 1), folder=spec.folder.replace(spec.run_id, again("one", 1))
    )
    assert client.submit([spec], ["k"]) == client.submit([copy], ["k"]) == (spec.run_id,)
    assert len(client.runs()) == 1


def test_many_askers_at_once_with_one_key_make_one_run(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.submit([make_spec("first")])  # the store exists
    answers: list[RunId] = []

    def ask(number: int) -> None:
        run_id = again("one", number)
        spec = replace(make_spec("one"), run_id=run_id, folder=f"/nowhere/one/{run_id}")
        answers.extend(Client(tmp_path).submit([spec], ["k"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_the_same_config_goes_on_with_its_unfinished_run_and_trains_anew_after_its_end(
    tmp_path: Path,
) -> None:
    client = Client(tmp_path)
    spec = make_spec("one")
    unfinished, key = client.unfinished_like(spec)
    assert unfinished is None
    client.submit([spec], [key])
    assert client.unfinished_like(spec)[0] == spec.run_id  # asked, not yet taken
    drive_store(client, num_events=4)
    assert client.unfinished_like(spec)[0] == spec.run_id  # its driver died
    assert client.unfinished_like(replace(spec, effective_batch=8))[0] is None
    drive_store(client)
    unfinished, another = client.unfinished_like(spec)
    assert unfinished is None
    assert another != key


def test_a_fingerprint_leaves_out_the_id_alone() -> None:
    spec = make_spec("one")
    assert fingerprint(spec) == fingerprint(
        replace(spec, run_id=again("one", 1), folder=f"/nowhere/one/{again('one', 1)}")
    )
    assert fingerprint(spec) != fingerprint(replace(spec, priority=51))
    assert fingerprint(spec) != fingerprint(replace(spec, folder="/elsewhere/x"))


def test_stop_and_resume_take_effect_with_the_next_driver(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.submit([spec := make_spec("one", epochs=4)])
    client.stop("one")
    drive_store(client)
    assert client.run("one").state is RunState.CANCELLED
    assert client.resume("one") == (spec.run_id,)
    drive_store(client)
    record = client.show("one")
    assert record.run.state is RunState.SUCCEEDED
    assert [row.epoch for row in record.progress] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="succeeded"):
        client.resume("one")


def test_the_last_wish_holds_before_any_driver_has_taken_one(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.submit([make_spec("one", epochs=4)])
    client.stop("one")
    drive_store(client)
    client.resume("one")
    waiting = client.run("one")
    assert (waiting.state, waiting.ended_at) == (RunState.PENDING, None)
    assert "asked to go on" in waiting.detail
    client.stop("one")
    assert client.run("one").state is RunState.CANCELLED
    drive_store(client)
    assert client.run("one").state is RunState.CANCELLED, "the stop came last"
    client.resume("one")
    client.stop("one")
    client.resume("one")
    drive_store(client)
    assert client.run("one").state is RunState.SUCCEEDED, "the resume came last"


def test_a_run_that_waits_goes_on_when_its_stop_is_taken_back(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.submit([make_spec("one", epochs=2)])
    client.stop("one")
    client.resume("one")
    drive_store(client)
    assert client.run("one").state is RunState.SUCCEEDED


def test_resume_without_a_name_names_what_is_unfinished(tmp_path: Path) -> None:
    filled = make_store(tmp_path)
    assert set(filled.client.resume()) == {
        filled.ids[name] for name in ("running", "waiting", "huge", "blocker", "asked")
    }


def test_wait_returns_the_ended_run_or_what_is_there_after_the_timeout(tmp_path: Path) -> None:
    filled = make_store(tmp_path)
    assert filled.client.wait("good").state is RunState.SUCCEEDED
    assert filled.client.wait("waiting", timeout=0.0).state is RunState.PENDING


def test_a_client_never_makes_a_store_by_reading(tmp_path: Path) -> None:
    client = Client(tmp_path / "none")
    assert not client.runs()
    assert not client.queue()
    assert not client.resume()
    assert client.driver() is None
    with pytest.raises(NotFoundError):
        client.show("x")
    assert not client.home.exists()


def test_logs_are_found_oldest_attempt_first(tmp_path: Path) -> None:
    client = Client(tmp_path / "home")
    spec = replace(make_spec("one"), folder=str(tmp_path / "run"))
    client.submit([spec])
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    for number in (2, 10, 1):
        (logs / f"attempt-{number}.log").write_text("x\n")
    assert [path.stem for path in client.logs("one")] == ["attempt-1", "attempt-2", "attempt-10"]
