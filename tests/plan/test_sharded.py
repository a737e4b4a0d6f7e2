"""A rank of a gang that splits its state keeps a part of it, and no activation less."""

from orchestrator.plan.footprint import Demand
from orchestrator.plan.sharded import split_demand

MIB = 1 << 20
PARTS = {
    "weights": 400 * MIB,
    "gradients": 400 * MIB,
    "optimizer": 800 * MIB,
    "ema": 400 * MIB,
    "activations": 1000 * MIB,
}
DEMAND = Demand(
    micro_batch=8,
    allocated_bytes=3000 * MIB,
    reserved_bytes=3200 * MIB,
    least_bytes=3100 * MIB,
)


def test_a_rank_keeps_its_part_and_the_blocks_that_compute() -> None:
    for ranks in (2, 4, 8):
        found = split_demand(DEMAND, PARTS, ranks, is_on_host=False)
        kept = 2000 * MIB // ranks + 100 * MIB
        assert found.allocated_bytes == 1000 * MIB + kept
        assert DEMAND.least_bytes - found.least_bytes == 2000 * MIB - kept
    on_host = split_demand(DEMAND, PARTS, 2, is_on_host=True)
    assert on_host.allocated_bytes == 1100 * MIB


def test_nothing_is_saved_of_what_no_step_holds() -> None:
    assert split_demand(DEMAND, {"activations": 3000 * MIB}, 4, is_on_host=True) == DEMAND
