"""Drives the stub runs of a store for as long as it is wanted: `python -m jobs.stub_service HOME`.

As `jobs.serve`, with the two cards of `jobs.stub_driver`, whose device is a ledger of bytes.
"""

import sys
from pathlib import Path

from jobs.serve import serve_store
from jobs.stub_driver import CARDS, StubParts
from orchestrator.client.access import Client
from orchestrator.errors import OrchestratorError

if __name__ == "__main__":
    try:
        sys.exit(serve_store(Client(Path(sys.argv[1])), CARDS, parts=StubParts()))
    except OrchestratorError as error:
        print(error.what, *error.why, sep="\n  ", file=sys.stderr)
        sys.exit(error.exit_code)
