"""`ray start` for a further node on the loopback interface; run as a process of its own.

Ray keeps a node under the loopback address only where its switch for that is set, and then refuses
every node but the head: it was made for systems on which Ray has no others. So the switch is set
for what this process starts, and the address told here.
"""

import os
from typing import Any

from ray._private import services
from ray.scripts import scripts

from orchestrator.cluster.running import LOOPBACK_NAME

__all__: list[str] = []

if __name__ == "__main__":
    known: Any = services
    known.get_node_ip_address = lambda _address=None: "127.0.0.1"
    os.environ[LOOPBACK_NAME] = "0"
    scripts.main()
