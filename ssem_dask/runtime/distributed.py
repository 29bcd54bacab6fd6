"""The Dask executor: a bounded number of tasks in flight, refilled as they end.

Tasks take no futures as inputs and return small records, so the scheduler holds only what is in flight. Dask's own
queueing is off for tasks with resource labels (distributed#9164), and a graph of all tasks would not fit the scheduler
at a million tasks (distributed#5630); the window avoids both.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from uuid import uuid4

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from ssem_dask.runtime.execute import lost
from ssem_dask.runtime.executor import Load, Work
from ssem_dask.runtime.metrics import set_metrics
from ssem_dask.task import Task, TaskReport

_IN_FLIGHT_PER_THREAD = 2
_LOG = logging.getLogger(__name__)


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._taken: set[str] = set()
        """Keys of what is in flight."""
        self._publishes = True

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard."""
        link = self._client.dashboard_link
        return str(link) if link else None

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task; at most two tasks a thread are in flight.

        Dask blames every task that waited on a worker when it died. So a task whose workers died is tried once more
        at the end, alone: only what kills its workers then is reported as lost.
        """
        suspects: list[Task] = []
        for task, future in self._stream(work, tasks, in_flight=None):
            report = _report(future)
            if report is None:
                suspects.append(task)
            else:
                yield report
        for task, future in self._stream(work, suspects, in_flight=1):
            message = f"Every worker that ran {task.key} died; it may need more memory than a worker has."
            yield _report(future) or lost(task, message=message, attempts=2)

    def _stream(self, work: Work, tasks: Iterable[Task], *, in_flight: int | None) -> Iterator[tuple[Task, Future]]:
        """Submit tasks as others end; None in flight: two for each thread that there is at the time."""
        waiting = iter(tasks)
        running: dict[str, Task] = {}
        completed = as_completed()

        def refill() -> None:
            free = (in_flight or self._in_flight()) - len(running)  # below 0 just after workers were lost
            for task in islice(waiting, max(0, free)):
                future = self._client.submit(work, task, key=f"{task.key}-{uuid4().hex}", pure=False)
                running[future.key] = task
                self._taken.add(future.key)
                completed.add(future)

        refill()
        for future in completed:
            self._taken.discard(future.key)
            yield running.pop(future.key), future
            future.release()
            refill()

    def load(self) -> Load:
        """Tasks beyond the threads that there are wait at the workers."""
        threads = self._client.nthreads()
        return Load(running=min(len(self._taken), int(sum(threads.values()))), workers=len(threads))

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """Set metrics in the scheduler's process, which serves them beside its dashboard."""
        if not self._publishes:
            return
        try:
            self._client.run_on_scheduler(set_metrics, dict(numbers))
        except Exception as error:  # noqa: BLE001  a scheduler without this package shows no metrics, and that is all
            self._publishes = False
            _LOG.info("The scheduler shows no metrics of this run: %s", error)

    def close(self) -> None:
        """Disconnect, and stop the cluster if this client started it."""
        cluster = self._client.cluster
        self._client.close()
        if cluster is not None:
            cluster.close()

    def _in_flight(self) -> int:
        threads = int(sum(self._client.nthreads().values()))
        return max(1, _IN_FLIGHT_PER_THREAD * threads)


def _report(future: Future) -> TaskReport | None:
    """The report of a task that has ended; None if it was lost with its workers."""
    error = future.exception()
    if isinstance(error, KilledWorker):
        return None
    if error is not None:
        raise error
    report: TaskReport = future.result()
    return report
