"""`python -m ssem_dask.cli.standby`: import what a rerun needs, wait for the words of a command, and run it.

A page that applies fixes starts this before it is needed, since the imports take seconds of each round. The words are
one line of JSON on stdin. If stdin is closed without any, the page has ended, and so does this process.
"""

import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Wait for the command and run it, as the `ssem-dask` script does."""
    signal.signal(signal.SIGINT, _end)
    import ssem_dask.cli.app
    import ssem_dask.driver.rerun
    import ssem_dask.runtime.clusters  # noqa: F401
    from ssem_dask.cli.main import main as run_command

    line = sys.stdin.readline()
    if line:
        sys.argv = ["ssem-dask", *json.loads(line)]
        run_command()


def _end(_number: int, _frame: Any) -> None:
    """End at once: nothing has begun yet, and an exception could be lost in an import."""
    from ssem_dask.cli.main import EXIT_INTERRUPTED, INTERRUPTED

    sys.stderr.write(f"error: {INTERRUPTED}\n")
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
