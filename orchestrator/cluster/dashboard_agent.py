"""Stands where the dashboard's agent of a Ray node would: says that it is there, and serves nobody.

Called as `python -I -S dashboard_agent.py FOLDER NAME...` by Ray's node, which waits until every
service of the agent has told its port, and ends with it. That of a service that is not in use is
-1, as in an installation of Ray without its dashboard. What the agent serves, figures for the
dashboard, is asked for by nobody in a Ray of our own, and takes a second of a processor. It imports
nothing but the standard library, to be small.
"""

import os
import sys
from pathlib import Path

__all__ = ["tell_ports"]


def tell_ports(folder: Path, names: list[str], node: str) -> None:
    """Leave a file for each service, whole at once, where Ray's node looks for its port."""
    for name in names:
        made = folder / f".{name}_{node}"
        made.write_text("-1")
        made.replace(folder / f"{name}_{node}")


if __name__ == "__main__":
    tell_ports(Path(sys.argv[1]), sys.argv[2:], os.environ["RAY_NODE_ID"])
    sys.stdin.buffer.read()  # until the node has ended, which holds the other end
