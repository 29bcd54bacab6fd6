"""Workers of this machine log errors, but nothing of their shutdown."""

import logging

from distributed.comm.core import CommClosedError

from ssem_dask.runtime.quiet_worker import is_no_shutdown_message


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, None)
    return logging.LogRecord("distributed.worker", logging.ERROR, __file__, 1, message, None, exc_info)


def test_only_messages_of_the_shutdown_are_filtered_out() -> None:
    assert not is_no_shutdown_message(record("Async instruction for <Task cancelled> ended with CancelledError"))
    assert not is_no_shutdown_message(record("Failed to communicate with scheduler", CommClosedError("closed")))
    assert is_no_shutdown_message(record("Worker is at 95% memory usage"))
    assert is_no_shutdown_message(record("Spilling failed", OSError(28, "No space left on device")))
