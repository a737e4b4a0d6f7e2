"""Laws of the codec: nothing is lost, nothing unknown is let in, the JSON is strict."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.messages import Event, ProgressReported, RunSubmitted, TimePassed
from orchestrator.states import RunState
from orchestrator.store.codec import decode, encode, from_plain, to_plain
from orchestrator.store.forms import Plain
from orchestrator.types import AttemptId, Progress, RunId, RunStatus
from tests.contracts.store import spec, status
from tests.store.strategies import EVENT_TYPES, events, values


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("kind", EVENT_TYPES)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_event_comes_back_as_it_was(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(values(kind))
    text = encode(event)
    strict(text)
    again = decode(text)
    assert type(again) is kind
    assert repr(again) == repr(event)  # repr, because NaN is not equal to itself
    assert encode(again) == text


@given(values(RunStatus))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_status_comes_back_as_it_was(row: RunStatus) -> None:
    assert repr(from_plain(RunStatus, to_plain(row))) == repr(row)


@given(events(), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_record_is_an_event_or_a_store_error(event: Event, data: st.DataObject) -> None:
    text = encode(event)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 6)))
    damaged = text[:start] + data.draw(st.text(max_size=4)) + text[end:]
    try:
        again = decode(damaged)
    except StoreError:
        return
    assert isinstance(again, Event)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"type": "Nonsense", "version": 1, "body": {}}, "Nonsense"),
        ({"type": "Event", "version": 1, "body": {"at": 1.0}}, "Event"),
        ({"type": "TimePassed", "version": 2, "body": {"at": 1.0}}, "version 2"),
        ({"type": "TimePassed", "version": 1, "body": {"at": 1.0, "why": 1}}, "why"),
        ({"type": "TimePassed", "version": 1, "body": {}}, "lacks at"),
        ({"type": "TimePassed", "version": 1, "body": {"at": "now"}}, "at: 'now'"),
        ({"type": "TimePassed", "version": 1, "body": {"at": True}}, "at: True"),
        ({"type": "TimePassed", "version": 1, "body": []}, "TimePassed"),
        ({"type": "TimePassed", "body": {"at": 1.0}}, "version"),
        ({"type": ["TimePassed"], "version": 1, "body": {"at": 1.0}}, "TimePassed"),
    ],
)
def test_what_is_unknown_is_refused_by_name(record: dict[str, Any], says: str) -> None:
    with pytest.raises(StoreError, match=says):
        decode(json.dumps(record))


def test_a_field_added_with_a_default_does_not_break_old_records() -> None:
    record = json.loads(encode(RunSubmitted(at=1.0, spec=spec())))
    del record["body"]["spec"]["queue"]
    again = decode(json.dumps(record))
    assert isinstance(again, RunSubmitted)
    assert again.spec.queue == "default"


def test_a_value_of_the_wrong_type_is_refused_when_it_is_written() -> None:
    attempt = AttemptId(run_id=RunId("a"), number=1)
    metrics: Any = {"loss": "0.5"}
    progress = Progress(epoch=1, epochs=2, metrics=metrics, seconds=1.0, num_images=8)
    with pytest.raises(StoreError, match=r"progress: metrics: loss: '0.5' is not float"):
        encode(ProgressReported(at=1.0, attempt=attempt, progress=progress))


def test_an_invalid_batch_in_a_record_is_a_store_error() -> None:
    plan: dict[str, Plain] = {"effective_batch": 3, "world_size": 4, "micro_batch": 1}
    with pytest.raises(StoreError, match="without a sample"):
        from_plain(
            RunStatus, {**to_plain(status(attempt=1, state=RunState.RUNNING)), "batch": plan}
        )


def test_an_event_class_of_somebody_else_is_refused() -> None:
    class TimePassedLater(TimePassed):
        pass

    with pytest.raises(StoreError, match="TimePassedLater"):
        encode(TimePassedLater(at=1.0))
