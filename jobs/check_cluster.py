"""Check a file for `ray up` without starting anything: `python -m jobs.check_cluster FILE`."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.launcher import problems_in, read_launcher, types_in
from orchestrator.errors import ConfigError

__all__ = ["check", "ray_problems"]


def ray_problems(config: Mapping[str, Any]) -> list[str]:
    """What Ray's own schema and checks have against it: what `ray up` asks before it starts."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(dict(config))))
    except Exception as error:
        return [str(error).splitlines()[0]]
    return []


def check(path: Path) -> list[str]:
    """Everything that is wrong with a file, in Ray's eyes and in ours.

    Raises:
        ConfigError: E1072, it is no such file.
    """
    config = read_launcher(path)
    return [*ray_problems(config), *problems_in(config)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m jobs.check_cluster FILE")
    file = Path(sys.argv[1])
    try:
        found = check(file)
        for kind in () if found else types_in(read_launcher(file), str(file)):
            cards = f"{kind.num_cards} x {kind.gpu} {kind.memory_bytes / 2**30:.1f} GiB"
            print(f"{kind.name}: {cards}, 0 to {kind.max_nodes} nodes, price {kind.price:g}")
    except ConfigError as error:
        found = [error.what, *error.why]
    for problem in found:
        print(f"{file}: {problem}", file=sys.stderr)
    raise SystemExit(2 if found else 0)
