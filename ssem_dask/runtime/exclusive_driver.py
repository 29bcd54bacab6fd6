"""One driver a run: whoever works on an output holds its lease, and stops where another one has taken over."""

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
    """Be the only driver of a run, and patient with its stores.

    Yields:
        The executor, which stops where another driver has taken over.

    Raises:
        OutputError: another driver is at work.
    """
    with hold_lease(lease_url(output)) as lease, retry_for(LONG_RETRY_S):
        yield _Guarded(executor, lease)


def lease_url(output: str) -> str:
    """Where a run's driver says that it is alive."""
    return join(output, "ledger", "driver.lease")


class _Guarded:
    """An executor that stops where the run's lease was lost."""

    def __init__(self, executor: Executor, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease

    @property
    def dashboard(self) -> str | None:
        """As in `Executor`."""
        return self._executor.dashboard

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """As in `Executor`; OutputError where another driver has taken over."""
        for report in self._executor.map(work, tasks):
            self._lease.check()
            yield report

    def load(self) -> ExecutorLoad:
        """As in `Executor`."""
        return self._executor.load()

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """As in `Executor`."""
        self._executor.publish(numbers)

    def close(self) -> None:
        """As in `Executor`."""
        self._executor.close()
