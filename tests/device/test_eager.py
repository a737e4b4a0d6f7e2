"""torch's compiler is not imported where nothing is compiled, and is there for whoever asks."""

import json
import subprocess
import sys

import pytest

_REPORT = """
print(json.dumps({"inductor": type(sys.modules["torch._inductor"]).__name__,
                  "kind": type(sys.modules["torch._dynamo"]).__name__}))
"""


def told(program: str) -> dict[str, object]:
    """What a program in a fresh process says of the compiler's modules at its end."""
    text = f"""
import json, sys
from orchestrator.device.eager import stand_in_for_compiler
stand_in_for_compiler()
{program}
{_REPORT}
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_trace_does_without_it() -> None:
    found = told("""
from orchestrator.memory.trace import trace_pair
from orchestrator.plan.workload import Workload
first, second = trace_pair(Workload(trainer="timm", model="test_vit", imgsz=32, num_classes=10))
assert first.events
""")
    assert found == {"inductor": "StandIn", "kind": "StandIn"}


def test_a_training_that_has_to_be_deterministic_does_without_it() -> None:
    found = told("""
import torch
torch.use_deterministic_algorithms(True)
model = torch.nn.Linear(2, 2)
torch.optim.AdamW(model.parameters()).step()
assert torch._inductor.config.deterministic
""")
    assert found == {"inductor": "StandIn", "kind": "StandIn"}


@pytest.mark.parametrize(
    "program",
    [
        # modules of it, and names of it and of modules that are stood in for
        "import torch; import torch._dynamo.guards as g; assert g is torch._dynamo.guards",
        """
import torch
from torch._dynamo.utils import counters
assert torch._dynamo.reset() is None
from torch._dynamo.source import AttrSource
import torch._dynamo.source as source
assert source.AttrSource is AttrSource
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
""",
        """
import torch
torch.use_deterministic_algorithms(True)
from torch._inductor.utils import is_gpu
assert torch._inductor.list_mode_options()
assert torch._inductor.config.deterministic and not is_gpu("cpu")
""",
    ],
)
def test_whoever_asks_for_more_gets_the_real_one(program: str) -> None:
    assert told(program)["kind"] == "module"


def test_one_that_is_there_stays() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch._dynamo as before, sys\n"
            "from orchestrator.device.eager import stand_in_for_compiler as stand_in\n"
            "stand_in()\n"
            "assert sys.modules['torch._dynamo'] is before\n",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
