"""The driver that the load bench watches: on a Ray with two stub cards, or in virtual time."""

import sys
from pathlib import Path

from jobs.serve import serve_store
from jobs.stub_driver import CARDS, StubParts
from orchestrator.client.access import Client
from orchestrator.types import Node, NodeId

__all__ = ["COMMAND", "simulate_store"]

COMMAND = (sys.executable, "-m", "jobs.load_driver")


def simulate_store(client: Client) -> None:
    """Drive a store in virtual time until it is asked to leave, with all that a service writes."""
    from orchestrator.cluster.sim import SimCluster
    from orchestrator.console import live
    from orchestrator.console.lines import LinesView
    from orchestrator.console.stop import interruptible
    from orchestrator.driver import drive
    from orchestrator.messages import NodeJoined
    from orchestrator.schedule.standard import standard_scheduler

    node = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)
    with client.store() as store, store.drive("load"), LinesView(sys.stderr) as view:
        cluster = SimCluster([NodeJoined(at=0.0, node=node)])
        with interruptible(client, view.note, is_service=True):
            scheduler = standard_scheduler()
            observe = live.recorder(scheduler, store, view)
            drive(scheduler, cluster, store, cluster, observe=observe, keep_alive=True)


if __name__ == "__main__":
    home = Client(Path(sys.argv[2]))
    if sys.argv[1] == "sim":
        simulate_store(home)
    else:
        sys.exit(serve_store(home, CARDS, parts=StubParts()))
