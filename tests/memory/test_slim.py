"""A process that only traces does without what torch imports for other uses, and says the same."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from orchestrator.memory.process import trace_in_process
from orchestrator.memory.trace import trace_pair
from orchestrator.plan.workload import Labels, Workload

WORKLOADS = (
    Workload(trainer="timm", model="test_efficientnet", imgsz=64, num_classes=10),
    Workload(
        trainer="yolo",
        model="yolov8n.yaml",
        imgsz=64,
        num_classes=3,
        task="detect",
        labels=Labels(most=20, mean=4.0),
    ),
)

_KINDS = """
print(json.dumps([type(sys.modules[name]).__name__ for name in (
    "sympy", "torch.fx.experimental.symbolic_shapes", "torch.distributed.tensor")]))
"""


def told(program: str) -> object:
    """What a program says at its end, in a fresh process that was made slim."""
    text = f"""
import json, sys
from orchestrator.memory.slim import make_slim
make_slim()
{program}
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.trainer)
def test_it_traces_what_a_process_with_all_of_torch_traces(workload: Workload) -> None:
    assert trace_in_process(workload) == trace_pair(workload)


def test_a_trace_of_a_detector_and_of_a_classifier_ask_for_no_more() -> None:
    given = json.dumps([asdict(workload) for workload in WORKLOADS])
    found = told(f"""
from orchestrator.memory.process import _workload
from orchestrator.memory.trace import trace_pair
for row in json.loads({given!r}):
    trace_pair(_workload(row))
{_KINDS}
""")
    assert found == ["StandIn"] * 3


@pytest.mark.parametrize(
    "program",
    [
        "from torch.fx.experimental.symbolic_shapes import ShapeEnv; ShapeEnv()",
        "import sympy; assert sympy.Symbol('x') + 0 == sympy.Symbol('x')",
        "from sympy.core.numbers import Integer; import sympy; assert sympy.Integer is Integer",
        "from torch.distributed.tensor.placement_types import Shard; assert Shard(0).dim == 0",
        "from torch.distributed.fsdp import fully_shard; assert callable(fully_shard)",
        "import torch.utils._sympy.functions as all; assert all.FloorDiv.__name__ == 'FloorDiv'",
    ],
)
def test_whoever_asks_for_more_gets_it(program: str) -> None:
    assert told(f"{program}\nprint('[]')") == []


def test_symbols_are_answered_as_without_it() -> None:
    assert (
        told("""
import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false, is_nested_int, sym_eq, sym_and
assert guard_or_false(True) and sym_eq((2, 3), [2, 3]) and not sym_eq((2,), (2, 3))
assert not sym_eq(2, 3) and not is_nested_int(2)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
size = ShapeEnv().create_unbacked_symint()
assert not guard_or_false(size == 3)
assert type(sym_eq((size, 2), (3, 2))) is torch.SymBool
assert type(sym_and(size == 3, True)) is torch.SymBool
assert sym_eq((size, 2), (3,)) is False
print("[]")
""")
        == []
    )
