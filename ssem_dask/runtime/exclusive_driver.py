"""One driver per run: a second one is refused, and one that was replaced stops.

How it works, from the outside in:

1. A driver enters `exclusive_driver` before it hands out tasks. This takes the run's *lease*, the file
   `ledger/driver.lease`, created atomically (`storage.lease`): of two drivers that start together, one gets it and the
   other ends with `OutputError`.
2. While it works, a thread renews the lease every few seconds. A lease that is no longer renewed belongs to a dead
   driver, and the next driver takes it over.
3. *Fencing*: a driver that only stalled (a suspended laptop, a network partition) may return after its lease was taken
   over. The renewing thread then finds another holder in the file, and `FencedExecutor` raises `LeaseLostError` at the
   next report, before the driver submits further tasks or changes the run's state.
4. Tasks that the stalled driver still had in flight do no harm: a task owns whole shards and is idempotent
   (`ssem_dask.task`). Both drivers write the same bytes if they have the same configuration and kind of device.

Limits:

- The lease is checked per report, not per write. Between the takeover and its next report, a stalled driver may hand
  out tasks and write pages of the ledger.
- Renewing is two requests, a read and a write (`storage.lease`).
- `driver.pipeline.run` creates the run's group, or checks an existing one, before it takes the lease.
  `volumes.volume_stages` records the state `running` before it takes it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ssem_dask.runtime.executor import Executor, ExecutorLoad, Work
from ssem_dask.storage.lease import Lease, hold_lease
from ssem_dask.storage.location import join
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.task import Task, TaskReport


@contextmanager
def exclusive_driver(output: str, executor: Executor) -> Iterator[Executor]:
    """Be the only driver of a run inside the context; requests to stores are retried for long.

    Args:
        output: URL of the run.
        executor: runs the driver's tasks.

    Yields:
        An executor that stops if another driver has taken the run over.

    Raises:
        OutputError: another driver is alive, or the lease cannot be written.
    """
    with hold_lease(lease_url(output)) as lease, retry_for(LONG_RETRY_S):
        yield FencedExecutor(executor, lease)


def lease_url(output: str) -> str:
    """Return the URL of the lease that the driver of a run holds."""
    return join(output, "ledger", "driver.lease")


class FencedExecutor(Executor):
    """An executor that stops if the lease of its driver is lost."""

    def __init__(self, executor: Executor, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease

    @property
    def dashboard(self) -> str | None:
        """See `Executor.dashboard`."""
        return self._executor.dashboard

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """See `Executor.map`; raises LeaseLostError if another driver has taken the run over."""
        for report in self._executor.map(work, tasks):
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
