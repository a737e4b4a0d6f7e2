"""`python -m orchestrator` is the command `orc`, where console scripts are off the PATH."""

import sys

from orchestrator.cli.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
