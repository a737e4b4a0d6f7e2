"""Signs of life: waiting for others is no silence, but not for ever."""

from orchestrator.cluster.link import Signs


def test_waiting_for_the_driver_is_no_silence() -> None:
    signs = Signs()
    with signs.waiting():
        assert signs.quiet_seconds == 0.0


def test_waiting_longer_than_was_allowed_is_silence() -> None:
    signs = Signs()
    with signs.waiting(patience=-5.0):  # as if it had been over for five seconds
        assert signs.quiet_seconds >= 5.0
    assert signs.quiet_seconds < 5.0
