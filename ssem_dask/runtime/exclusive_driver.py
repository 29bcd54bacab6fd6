"""One driver per run: a second one is refused, and one that was replaced stops before it writes.

How it works, from the outside in:

1. A driver enters `exclusive_driver` before it changes anything at the output. This takes the *lease* of the output,
   the folder `ledger/drivers.lease` (`storage.lease`): of two drivers that start together, one gets it and the other
   ends with `OutputError`. The number of its claim is the *generation* of all that this driver and its tasks write.
2. While it works, a thread renews the lease every few seconds. A lease that is no longer renewed belongs to a dead
   driver, and the next driver takes it over.
3. *Fencing of the driver*: a driver that only stalled (a suspended laptop, a network partition) may return after its
   lease was taken over. Inside `exclusive_driver`, whatever it writes asks the lease first (`storage.fence`). A file is
   written if the last renewal is young enough, by a clock that counts a suspension. Before something is deleted, an
   array or group made, or entries marked stale, the store is asked again.
4. *Fencing of tasks*: the claim travels with the work (`FencedWork`). The worker asks the store before the task starts,
   before it writes data, unless the last answer is younger than `_REUSE_S`, and before and after it writes the ledger
   entry. A task that was superseded writes nothing, and is reported as such to its driver, if that lives.
5. *A write that was under way*: no store refuses a write because of its generation. So a write that hung during a
   takeover may arrive after the newer driver has written the same shard. Its worker finds this out after the write, and
   leaves a *note* at the output (`storage.late_writes`). `status` counts the named task as failed, and the driver
   recomputes it, now or at the next `rerun`, with all that depends on it.

Limit: the note is written right after the write. If the worker is killed between the two, or the store carries out the
write of a dead worker, nobody knows; `verify` then finds files of another size than the ledger says.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ssem_dask.errors import LeaseLostError
from ssem_dask.runtime.executor import Executor, ExecutorLoad, Work
from ssem_dask.storage import late_writes
from ssem_dask.storage.fence import fenced
from ssem_dask.storage.lease import LEASE_PATH, SYSTEM_CLOCK, Claim, Clock, Lease, hold_lease
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import join
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.task import Cause, Outcome, Task, TaskReport

_REUSE_S = 2.0
"""Seconds for which a task relies on an answer when it writes a file, since an array may be many small files."""


@contextmanager
def exclusive_driver(output: str, executor: Executor, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[Executor]:
    """Be the only driver of a run inside the context; requests to stores are retried for long.

    Args:
        output: URL of the run.
        executor: runs the driver's tasks.
        clock: time, for the lease.

    Yields:
        An executor whose tasks write only as long as this driver holds the lease.

    Raises:
        OutputError: another driver is alive, or the lease cannot be written.
        LeaseLostError: another driver has taken the run over, or the output was removed.
    """
    with (
        hold_lease(lease_url(output), output=output, clock=clock) as lease,
        retry_for(LONG_RETRY_S),
        fenced(lease),
    ):
        yield FencedExecutor(executor, lease, clock=clock)


def lease_url(output: str) -> str:
    """Return the URL of the lease that the driver of a run holds."""
    return join(output, *LEASE_PATH)


class TaskFence:
    """Asks the store for one task whether the driver that handed it out is still the one that counts."""

    def __init__(self, claim: Claim, clock: Clock) -> None:
        self._claim, self._clock = claim, clock
        self._asked = float("-inf")
        self.may_have_written = False
        """Whether a write was allowed, so that it may have arrived, whatever came after."""

    def check(self) -> None:
        """See `Fence.check`; called before each write."""
        if self._clock.now() - self._asked > _REUSE_S:
            self.confirm()
        self.may_have_written = True

    def confirm(self) -> None:
        """See `Fence.confirm`."""
        asked = self._clock.now()
        with retry_for(LONG_RETRY_S):
            self._claim.confirm()
        self._asked = asked


@dataclass(frozen=True, slots=True)
class FencedWork:
    """Work on a task that writes only while the driver that handed it out holds the lease; travels to the workers."""

    work: Work
    claim: Claim
    clock: Clock = SYSTEM_CLOCK

    def __call__(self, task: Task) -> TaskReport:
        """Do the work; return a report with cause `superseded`, and write nothing, if another driver has taken over."""
        fence = TaskFence(self.claim, self.clock)
        try:
            with retry_for(LONG_RETRY_S):
                self.claim.confirm()  # not by the fence, which asks again at the first write: the task may take long
            with fenced(fence):
                report = self.work(task)
                fence.confirm()  # what was written last may have arrived late, too
                return report
        except LeaseLostError as error:
            if fence.may_have_written:
                late_writes.leave_note(self.claim, key=task.key, digest=task.digest)
            return _superseded(task, str(error))


class FencedExecutor(Executor):
    """An executor whose tasks and whose driver stop if the driver's lease is lost."""

    def __init__(self, executor: Executor, lease: Lease, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._executor = executor
        self._lease = lease
        self._clock = clock

    @property
    def dashboard(self) -> str | None:
        """See `Executor.dashboard`."""
        return self._executor.dashboard

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """See `Executor.map`; raises LeaseLostError if another driver has taken the run over."""
        for report in self._executor.map(FencedWork(work, self._lease.claim, self._clock), tasks):
            if report.cause is Cause.SUPERSEDED:
                self._lease.confirm()
                # The worker and this driver see different states of the store: the task did not run.
                open_ledger(self._lease.claim.output).write(report)
            self._lease.check()
            yield report

    def load(self) -> ExecutorLoad:
        """See `Executor.load`."""
        return self._executor.load()

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """See `Executor.publish`."""
        self._executor.publish(numbers)

    def close(self) -> None:
        """See `Executor.close`."""
        self._executor.close()


def _superseded(task: Task, message: str) -> TaskReport:
    return TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=Outcome.FAILED,
        cause=Cause.SUPERSEDED,
        message=message,
        attempts=task.attempt,
        lost=task.lost,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        pixels=task.pixels,
        changes=dict(task.changes),
    )
