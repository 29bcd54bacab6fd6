"""Preload of a worker on this machine: Ctrl-C is left to the driver, and the shutdown that follows logs nothing.

A terminal sends Ctrl-C to the driver and to its workers alike. The driver reports it in one sentence and stops the
workers, which therefore must neither end with a traceback of their own nor complain about the shutdown. Their scheduler
runs in the driver, so a closed connection always means that the driver is ending.
"""

import logging
import signal
from typing import Any

_LOGGERS = ("distributed", "tornado.application")


def dask_setup(_worker: Any) -> None:
    """Set up the worker's process; called by Dask when the worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked in the server that it was forked from
    for name in _LOGGERS:
        # On handlers, because a filter on a logger does not apply to the records of the loggers below it.
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(is_no_shutdown_message)


def is_no_shutdown_message(record: logging.LogRecord) -> bool:
    """Filter out what a worker logs about tasks that it cancels, and about connections that were closed."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "CommClosedError" and "ended with CancelledError" not in record.getMessage()
