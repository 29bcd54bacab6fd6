"""The Dask executor: a bounded number of tasks in flight, refilled as they end.

Tasks take no futures as inputs and return small records, so the scheduler holds only what is in flight. Dask's own
queueing is off for tasks with resource labels (distributed#9164), and a graph of all tasks would not fit the scheduler
at a million tasks (distributed#5630); the window avoids both.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from uuid import uuid4

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from ssem_dask.errors import ClusterError
from ssem_dask.runtime.execute import lost
from ssem_dask.runtime.executor import Work
from ssem_dask.task import Task, TaskReport

_IN_FLIGHT_PER_THREAD = 2


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Client, *, resources: Mapping[str, float] | None = None) -> None:
        """Args: `client`, closed with the executor; `resources`, labels with the amounts of each that a task takes."""
        self._client = client
        self._resources = dict(resources or {}) or None

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
                key = f"{task.key}-{uuid4().hex}"
                future = self._client.submit(work, task, key=key, pure=False, resources=self._resources)
                running[future.key] = task
                completed.add(future)

        refill()
        for future in completed:
            yield running.pop(future.key), future
            future.release()
            refill()

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
    if future.status in ("cancelled", "lost"):
        raise ClusterError("The scheduler of the cluster is lost; start it again, then run it again.")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return None
    if error is not None:
        raise error
    report: TaskReport = future.result()
    return report
