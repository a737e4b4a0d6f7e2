"""What a worker's link knows by itself: signs of life, and how soon to leave."""

from itertools import permutations

from orchestrator.cluster.link import Signs, StopFlag
from orchestrator.types import StopMode


def test_waiting_for_the_driver_is_no_silence() -> None:
    signs = Signs()
    with signs.waiting():
        assert signs.quiet_seconds == 0.0


def test_waiting_longer_than_was_allowed_is_silence() -> None:
    signs = Signs()
    with signs.waiting(patience=-5.0):  # as if it had been over for five seconds
        assert signs.quiet_seconds >= 5.0
    assert signs.quiet_seconds < 5.0


def test_whoever_asks_to_leave_sooner_is_heard_in_any_order() -> None:
    order = [StopMode.AFTER_EPOCH, StopMode.AT_BATCH, StopMode.ABANDON]
    for asked in permutations(order):
        flag = StopFlag()
        for mode in asked:
            before = flag.mode
            flag.ask(mode)
            assert flag.mode in (before, mode)
        assert flag.mode is StopMode.ABANDON
    flag = StopFlag()
    flag.ask(StopMode.AT_BATCH)
    flag.ask(StopMode.AFTER_EPOCH)
    assert flag.mode is StopMode.AT_BATCH
