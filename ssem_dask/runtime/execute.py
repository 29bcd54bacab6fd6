"""One task from start to ledger: run it, time it, name the cause if it fails, record how it ended.

The ledger entry is written by the process that wrote the data, and after the data, so an entry proves that the data is
complete whatever is killed in between.
"""

import os
import socket
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import torch

from ssem_dask.errors import LeaseLostError, OutputError, SsemDaskError
from ssem_dask.field.device import release_gpu_memory
from ssem_dask.runtime.memory import keep_freed_memory
from ssem_dask.shown import redacted
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.fence import confirm_fence
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import delete, join
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport

_LOG_LINES = 30
_ON_GPU = [""]
"""Stage of the task that this process computed last on its GPU."""


def execute(task: Task) -> TaskReport:
    """Run a task and write its ledger entry.

    Returns:
        The report that was written. Whatever the task raised is in it; only an interrupt, and a ledger that cannot be
        written, are raised.

    Raises:
        LeaseLostError: another driver has taken the run over (`runtime.exclusive_driver`); no entry was written.
    """
    keep_freed_memory()
    if task.uses_gpu:
        _begin_on_gpu(task.stage)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    outcome, cause, log = Outcome.FAILED, None, ""
    result, written = Result(outcome=Outcome.FAILED), dict[str, int]()
    try:
        with retry_for(LONG_RETRY_S), fused_codecs():
            if task.attempt > 1:
                # Writing a part of a shard reads it first: a shard that the last attempt left torn would fail forever.
                for path in task.files():
                    delete(join(task.output, path), recursive=False)
            result = task.run()
            written = task.files()
        outcome, message = result.outcome, result.message
    except LeaseLostError:
        raise  # another driver writes the run and its ledger now
    except Exception as error:  # noqa: BLE001  any failure of a task belongs in the ledger
        cause, message = cause_of(error), redacted(f"{type(error).__name__}: {error}")
        log = redacted("".join(traceback.format_exception(error)[-_LOG_LINES:]))
    if cause is Cause.GPU_OUT_OF_MEMORY:
        release_gpu_memory()  # so that leftovers cannot make the next task run out of memory
    report = TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=outcome,
        cause=cause,
        message=message,
        attempts=task.attempt,
        lost=task.lost,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started=started,
        seconds=round(time.perf_counter() - clock, 3),
        pixels=task.pixels,
        bytes_read=result.bytes_read,
        bytes_written=result.bytes_written,
        clipped=result.clipped,
        files=written,
        log=log,
        changes=dict(task.changes),
    )
    with retry_for(LONG_RETRY_S):
        confirm_fence()
        open_ledger(task.output).write(report)
    return report


def _begin_on_gpu(stage: str) -> None:
    """Free what an earlier stage keeps on the GPU: it is of no use to this one, and other workers share the GPU."""
    if _ON_GPU[0] not in ("", stage) and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        release_gpu_memory()
    _ON_GPU[0] = stage


def unfinished(task: Task, *, cause: Cause, message: str, worker: str = "", seconds: float = 0.0) -> TaskReport:
    """Record in the ledger a task whose worker died, or that was given up, and return its report.

    Args:
        task: the task at its last start.
        cause: `WORKER_LOST` or `TIMEOUT`.
        message: one sentence for the user.
        worker: address of the last worker, if it is known.
        seconds: time since the task was sent to that worker.
    """
    report = TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=Outcome.FAILED,
        cause=cause,
        message=message,
        attempts=task.attempt,
        lost=task.lost,
        worker=worker,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        pixels=task.pixels,
        changes=dict(task.changes),
    )
    open_ledger(task.output).write(report)
    return report


def cause_of(error: BaseException) -> Cause:
    """Return the cause of a failure, from the error and the chain of errors that it was raised from."""
    chain = list(_chain(error))
    if any(_gpu_memory(link) for link in chain):
        return Cause.GPU_OUT_OF_MEMORY
    if any(isinstance(link, MemoryError) or "not enough memory" in str(link) for link in chain):
        return Cause.OUT_OF_MEMORY
    if isinstance(error, OutputError) or any(_transport(link) for link in chain):
        return Cause.IO
    if isinstance(error, SsemDaskError | FileNotFoundError):
        return Cause.BAD_INPUT
    return Cause.IO if isinstance(error, OSError) else Cause.BUG


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _gpu_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error)


def _transport(error: BaseException) -> bool:
    """Return whether a disk, a network or a server failed, as opposed to an input that does not exist."""
    if isinstance(error, OSError):
        return not isinstance(error, SsemDaskError | FileNotFoundError | IsADirectoryError | NotADirectoryError)
    # The clients of object stores have errors of their own, and may not be installed.
    return type(error).__module__.partition(".")[0] in ("botocore", "aiohttp", "gcsfs", "google")
