"""Check a file for `ray up` or KubeRay without starting it: `python -m jobs.check_cluster FILE`."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.launcher import problems_in, read_launcher, types_in
from orchestrator.errors import ConfigError

__all__ = ["as_launched", "check", "ray_problems"]


def as_launched(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A RayCluster of KubeRay as Ray's autoscaler reads it; another file as it is.

    Raises:
        ConfigError: E1072, Ray cannot read it.
    """
    if config.get("kind") != "RayCluster":
        return config
    from ray.autoscaler._private.kuberay import autoscaling_config

    derive = autoscaling_config._derive_autoscaling_config_from_ray_cr
    try:
        found: Mapping[str, Any] = derive(copy.deepcopy(dict(config)))
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ConfigError("Ray cannot read this RayCluster", code="E1072", why=(told,)) from error
    return found


def ray_problems(config: Mapping[str, Any]) -> list[str]:
    """What Ray's own schema and checks have against it: what `ray up` asks before it starts."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        if (config.get("provider") or {}).get("type") == "kuberay":
            validate_config(config)
        else:
            validate_config(prepare_config(copy.deepcopy(dict(config))))
    except Exception as error:
        return [str(error).splitlines()[0]]
    return []


def check(path: Path) -> list[str]:
    """Everything that is wrong with a file, in Ray's eyes and in ours.

    Raises:
        ConfigError: E1072, it is no such file.
    """
    config = as_launched(read_launcher(path))
    return [*ray_problems(config), *problems_in(config)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m jobs.check_cluster FILE")
    file = Path(sys.argv[1])
    try:
        found = check(file)
        for kind in () if found else types_in(as_launched(read_launcher(file)), str(file)):
            cards = f"{kind.num_cards} x {kind.gpu} {kind.memory_bytes / 2**30:.1f} GiB"
            print(f"{kind.name}: {cards}, 0 to {kind.max_nodes} nodes, price {kind.price:g}")
    except ConfigError as error:
        found = [error.what, *error.why]
    for problem in found:
        print(f"{file}: {problem}", file=sys.stderr)
    raise SystemExit(2 if found else 0)
