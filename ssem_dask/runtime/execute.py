"""One task from start to ledger: run it, time it, name the cause if it fails, write down how it ended.

The ledger entry is written by the process that wrote the data, and after the data, so that an entry is proof of the
data whatever is killed in between.
"""

import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

from ssem_dask.errors import SsemDaskError
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.location import join
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport

_LOG_LINES = 30


def execute(task: Task, *, run: Callable[[Task], Result], attempts: int = 1) -> TaskReport:
    """Run a task and write its ledger entry.

    Args:
        task: what to do.
        run: the stage's function.
        attempts: how often the task has been started, this time included.

    Returns:
        The report that was written. Whatever the task raised is in it; only an interrupt, and a ledger that cannot be
        written, are raised.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    outcome, cause, log = Outcome.FAILED, None, ""
    result = Result(outcome=Outcome.FAILED)
    try:
        result = run(task)
        outcome, message = result.outcome, result.message
    except Exception as error:  # noqa: BLE001  the ledger is where a task's failure is told, whatever it is
        cause, message = cause_of(error), f"{type(error).__name__}: {error}"
        log = "".join(traceback.format_exception(error)[-_LOG_LINES:])
    report = TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=outcome,
        cause=cause,
        message=message,
        attempts=attempts,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started=started,
        seconds=round(time.perf_counter() - clock, 3),
        pixels=task.pixels,
        bytes_read=result.bytes_read,
        bytes_written=result.bytes_written,
        log=log,
    )
    open_ledger(task.output).write(report)
    return report


def open_ledger(output: str) -> Ledger:
    """The ledger of a run."""
    return Ledger(join(output, "ledger"))


def lost(task: Task, *, message: str, attempts: int) -> TaskReport:
    """Report, and write to the ledger, a task whose worker did not live to tell."""
    report = TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=Outcome.FAILED,
        cause=Cause.WORKER_LOST,
        message=message,
        attempts=attempts,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        pixels=task.pixels,
    )
    open_ledger(task.output).write(report)
    return report


def cause_of(error: BaseException) -> Cause:
    """Name the cause of a failure for the ledger."""
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        return Cause.OUT_OF_MEMORY
    if isinstance(error, SsemDaskError) and not isinstance(error, OSError):
        return Cause.BAD_INPUT
    if isinstance(error, OSError):
        return Cause.IO
    return Cause.BUG
