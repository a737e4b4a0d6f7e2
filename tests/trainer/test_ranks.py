"""What a gang's averaged gradients take, measured with two ranks of gloo."""

import multiprocessing
import socket

import pytest

from orchestrator.plan.overheads import overheads
from tests.trainer.flat_work import flat_work, model


def test_averaging_takes_the_flat_copy_that_is_planned_with() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [context.Process(target=flat_work, args=(rank, port, answers)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    weights = sum(parameter.numel() * 4 for parameter in model().parameters())
    one, two = (overheads("Ada", world_size=n, parameter_bytes=weights) for n in (1, 2))
    planned = two.inside_bytes - one.inside_bytes
    means = [row[5] for row in found]
    assert means[0] == means[1] == pytest.approx(sum(row[4] for row in found) / 2, rel=1e-5)
    for _, before, peak, after, _, _ in found:
        assert peak - before == pytest.approx(planned, rel=0.01)
        assert after == pytest.approx(before, rel=0.01)  # the copy takes the gradients' place
