"""`python -m orchestrator` is the command `orc`, where console scripts are off the PATH."""

from orchestrator.cli.app import main
from orchestrator.cluster.leaving import leave

__all__: list[str] = []

if __name__ == "__main__":
    leave(main())
