"""Preload of a worker on this machine: Ctrl-C is left to the driver, and the shutdown that follows logs nothing.

A terminal sends Ctrl-C to the driver and to its workers alike. The driver reports it in one sentence and stops the
workers, which therefore must neither end with a traceback of their own nor warn of the tasks that they cancel.
"""

import logging
import signal
from typing import Any


def dask_setup(_worker: Any) -> None:
    """Set up the worker's process; called by Dask when the worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker.state_machine").addFilter(_is_no_cancelled_task)


def _is_no_cancelled_task(record: logging.LogRecord) -> bool:
    """Filter out the warning that closing a worker logs for each task that it cancels."""
    return "ended with CancelledError" not in record.getMessage()
