"""The bench of workspaces: a run's error never depends on the run itself."""

import pytest

from jobs.bench_memory_workspace import left_out, without_scratch
from orchestrator.memory.events import Birth, StepTrace
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand

SHOWN, REPLAYED = [2.0, 4.4, 8.0, 17.0], [2.0, 4.0, 8.0, 16.0]


def test_where_all_runs_ask_for_one_factor_no_error_is_left() -> None:
    assert left_out([2.1, 4.1, 8.1], [1.0, 2.0, 4.0], 0.1) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("number", range(4))
def test_the_factor_comes_from_the_other_runs(number: int) -> None:
    before = left_out(SHOWN, REPLAYED, 0.0)[number]
    other = [one * (10 if at == number else 1) for at, one in enumerate(SHOWN)]
    after = left_out(other, REPLAYED, 0.0)[number]
    assert (after + 1) * 10 == pytest.approx(before + 1)


def test_without_scratch_the_step_is_the_same_but_for_the_smallest_block() -> None:
    traces = [
        StepTrace(
            batch=batch,
            events=(Birth(0, 1 << 20, "weights"), Birth(1, batch << 26, "scratch"), 1),
            marks=(),
        )
        for batch in (1, 2)
    ]
    trace = LinearTrace.of(*traces)
    bare = without_scratch(trace)
    assert bare.events == trace.events
    assert bare.sizes(8).tolist() == [1 << 20, 512]
    assert demand(bare, 8).reserved_bytes < demand(trace, 8).reserved_bytes
