"""What the ranks of a gang say becomes one end; a whole gang starts only where it can train."""

import pytest

from orchestrator.cluster.endings import LOST_CONTACT, Ending, failure, failure_of
from orchestrator.cluster.gang import CONTACT_SECONDS, FAREWELL_SECONDS, Gang
from orchestrator.cluster.meeting import Place, Started
from orchestrator.cluster.pulse import Patience
from orchestrator.messages import StartGang
from orchestrator.plan.batch import plan_batch
from orchestrator.types import AttemptId, Card, Cause, NodeId, Outcome, Placement, Share
from tests.strategies import make_spec

GIB = 1024**3
WHEELS = (("python", "3.11.7"), ("torch", "2.15.0"))
DONE = Ending(outcome=Outcome.FINISHED, metrics={"loss": 1.0})
CONTACT = failure(Cause.WORKER_LOST, "Connection closed by peer", LOST_CONTACT)


def make_gang(*nodes: str, is_emulated: bool = True) -> Gang:
    """One rank on each node named, on its card 0, its 1st, and so on."""
    indexes = [nodes[:number].count(node) for number, node in enumerate(nodes)]
    spec = make_spec("pair", num_gpus=len(nodes))
    shares = tuple(
        Share(node_id=NodeId(node), card=index, memory_bytes=GIB)
        for node, index in zip(nodes, indexes, strict=True)
    )
    order = StartGang(
        attempt=AttemptId(run_id=spec.run_id, number=1),
        spec=spec,
        batch=plan_batch(spec),
        placement=Placement(shares),
    )
    cards = [
        Card(index=index, name="A", memory_bytes=8 * GIB, is_emulated=is_emulated)
        for index in indexes
    ]
    gang = Gang(order, cards)
    for rank, index in zip(gang.ranks, indexes, strict=True):
        rank.waited = object()
        rank.started = Started(
            pid=100 + rank.number,
            accelerators=(str(index),),
            place=Place(
                host=rank.node_id,
                address=f"10.0.0.{rank.number}",
                port=4000 if rank.number == 0 else 0,
                versions=WHEELS,
                missing=(),
            ),
        )
    return gang


def ends(gang: Gang, number: int, ending: Ending) -> None:
    gang.ranks[number].waited, gang.ranks[number].ending = None, ending


def placed(gang: Gang, number: int, **what: object) -> None:
    rank = gang.ranks[number]
    assert rank.started is not None
    fields = {
        name: getattr(rank.started.place, name)
        for name in ("host", "address", "port", "versions", "missing")
    }
    rank.started = Started(
        pid=rank.started.pid,
        accelerators=rank.started.accelerators,
        place=Place(**{**fields, **what}),
    )


def test_a_gang_of_one_ends_as_its_worker_says() -> None:
    gang = make_gang("a")
    assert gang.verdict(0.0) is None
    ends(gang, 0, DONE)
    assert gang.verdict(0.0) is DONE


def test_rank_0_tells_how_it_ended_once_the_others_have_left_or_had_their_time() -> None:
    gang = make_gang("a", "a", "b")
    ends(gang, 2, Ending(outcome=Outcome.YIELDED))
    assert gang.verdict(1.0) is None
    ends(gang, 0, DONE)
    assert gang.verdict(2.0) is None
    assert gang.verdict(2.0 + FAREWELL_SECONDS) is DONE
    ends(gang, 1, DONE)
    assert gang.verdict(3.0) is DONE


def test_a_failure_of_any_rank_ends_it_at_once_and_is_named() -> None:
    gang = make_gang("a", "b")
    ends(gang, 0, CONTACT)
    assert gang.verdict(0.0) is None, "somebody else knows more"
    ends(gang, 1, failure(Cause.NAN_LOSS, "the loss is NaN", "E2110"))
    verdict = gang.verdict(0.1)
    assert verdict is not None
    assert (verdict.cause, verdict.code) == (Cause.NAN_LOSS, "E2110")
    assert verdict.detail == "rank 1, process 101 on b: the loss is NaN"


def test_lost_contact_alone_is_the_cause_when_nobody_tells_a_better_one_in_time() -> None:
    gang = make_gang("a", "b")
    ends(gang, 0, CONTACT)
    assert gang.verdict(5.0) is None
    verdict = gang.verdict(5.0 + CONTACT_SECONDS)
    assert verdict is not None
    assert (verdict.cause, verdict.code) == (Cause.WORKER_LOST, LOST_CONTACT)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.1]:39231", "E4119"),
        ("mat1 and mat2 shapes cannot be multiplied", "E4111"),
    ],
)
def test_what_a_rank_raises_when_another_is_gone_is_told_from_mistakes(
    text: str, code: str
) -> None:
    ending = failure_of(RuntimeError(text), is_card_out_of_memory=False)
    assert ending.code == code


def test_every_rank_learns_who_it_is_where_they_meet_and_what_it_sees() -> None:
    gang = make_gang("a", "b", "a", is_emulated=False)
    assert gang.fault_of_start() is None
    found = [meeting for meeting in gang.meetings(60.0) if meeting is not None]
    assert [(m.rank, m.local_rank, m.local_world_size) for m in found] == [
        (0, 0, 2),
        (1, 0, 1),
        (2, 1, 2),
    ]
    assert {(m.world_size, m.address, m.port) for m in found} == {(3, "10.0.0.0", 4000)}
    assert [m.visible for m in found] == [("0", "1"), ("0",), ("0", "1")]


def test_cards_stay_hidden_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = make_gang("a", "a").meetings(60.0)[1]
    assert meeting is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" not in meeting.environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert meeting.environment() == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.0",
        "MASTER_PORT": "4000",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }


def test_a_worker_on_another_card_than_was_chosen_does_not_train() -> None:
    gang = make_gang("a", "a", is_emulated=False)
    gang.ranks[1].started = gang.ranks[0].started
    fault = gang.fault_of_start()
    assert fault is not None
    assert fault.cause is Cause.START_FAILED
    assert "instead of card 1" in fault.detail


def test_nodes_with_other_wheels_do_not_train_together() -> None:
    gang = make_gang("a", "b")
    placed(gang, 1, versions=(("python", "3.11.7"), ("torch", "2.14.1")))
    fault = gang.fault_of_start()
    assert fault is not None
    assert (fault.cause, fault.code) == (Cause.USER_ERROR, "E4121")
    assert "torch is 2.15.0 on a, 2.14.1 on b" in fault.detail
    assert "python" not in fault.detail


def test_a_path_that_one_node_does_not_have_is_named_with_the_node() -> None:
    gang = make_gang("a", "b")
    placed(gang, 1, missing=("/data/cells",))
    fault = gang.fault_of_start()
    assert fault is not None
    assert (fault.cause, fault.code) == (Cause.START_FAILED, "E4120")
    assert "b does not have /data/cells" in fault.detail


def test_a_person_s_word_on_hangs_replaces_what_follows_from_the_pace() -> None:
    patience = Patience()
    assert patience.of_run(None) is patience
    said = patience.of_run(90.0)
    assert (said.start_seconds, said.floor_seconds, said.multiple) == (90.0, 90.0, 0.0)
    assert said.meeting_seconds > 90.0 + said.answer_seconds
