"""The inbox loses nothing, doubles nothing, and lets nobody run ahead of the journal."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.inbox import Inbox, Report
from orchestrator.messages import ProgressReported, StepReported
from orchestrator.types import AttemptId, Progress, RunId, StepProgress


def report(epoch: int) -> Report:
    content = Progress(epoch=epoch, epochs=9, metrics={}, seconds=1.0, num_images=1)
    return Report(attempt=AttemptId(run_id=RunId("r"), number=1), content=content)


@given(moves=st.lists(st.sampled_from(["put", "read", "reread", "record"]), max_size=40))
def test_a_reader_sees_every_letter_once_and_in_order(moves: list[str]) -> None:
    async def run() -> None:
        inbox = Inbox()
        put, seen, recorded = 0, 0, 0
        for move in moves:
            if move == "put":
                put += 1
                assert await inbox.report(report(put)) == put
            elif move == "record":
                recorded = seen
                await inbox.acknowledge(recorded)
            else:
                letters = await inbox.take(seen)
                assert [letter.number for letter in letters] == list(range(seen + 1, put + 1))
                assert [letter.report for letter in letters] == [
                    report(number) for number in range(seen + 1, put + 1)
                ]
                if move == "read":
                    seen = put

    asyncio.run(run())


def test_a_poll_answers_when_there_is_something_new() -> None:
    async def run() -> None:
        inbox = Inbox()
        poll = asyncio.ensure_future(inbox.poll(0))
        await asyncio.sleep(0)
        assert not poll.done()
        await inbox.step(report(1))
        assert [letter.number for letter in await poll] == [1]

    asyncio.run(run())


def test_a_poll_lets_senders_go_on_whose_letters_are_recorded_and_tells_the_refused() -> None:
    async def run() -> None:
        inbox = Inbox()
        numbers = [await inbox.report(report(epoch)) for epoch in (1, 2, 3)]
        waits = [asyncio.ensure_future(inbox.recorded(number)) for number in numbers]
        assert [letter.number for letter in await inbox.poll(2, 2, [2])] == [3]
        assert (await waits[0], await waits[1]) == (True, False)
        assert not waits[2].done()
        waits[2].cancel()

    asyncio.run(run())


def test_a_sender_waits_until_its_letter_is_recorded() -> None:
    async def run() -> None:
        inbox = Inbox()
        numbers = [await inbox.report(report(epoch)) for epoch in (1, 2)]
        waits = [asyncio.ensure_future(inbox.recorded(number)) for number in numbers]
        await inbox.acknowledge(1)
        await waits[0]
        assert not waits[1].done()
        await inbox.acknowledge(2)
        await waits[1]
        await inbox.recorded(0)  # nothing was sent: nothing to wait for

    asyncio.run(run())


def test_a_sender_whose_letter_was_refused_is_told_so() -> None:
    async def run() -> None:
        inbox = Inbox()
        numbers = [await inbox.report(report(epoch)) for epoch in (1, 2, 3)]
        await inbox.acknowledge(2, [2])
        assert await inbox.recorded(numbers[0])
        assert not await inbox.recorded(numbers[1])
        await inbox.acknowledge(3)
        assert await inbox.recorded(numbers[2])
        assert not await inbox.recorded(numbers[1]), "for ever"

    asyncio.run(run())


def test_a_report_becomes_the_event_of_its_kind() -> None:
    assert isinstance(report(1).event(2.0), ProgressReported)
    step = StepProgress(epoch=1, epochs=2, step=1, num_steps=2, images_per_second=1.0)
    event = Report(attempt=report(1).attempt, content=step).event(2.0)
    assert event == StepReported(at=2.0, attempt=report(1).attempt, step=step)
