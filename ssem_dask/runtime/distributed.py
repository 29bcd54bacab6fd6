"""The Dask executor: a bounded number of tasks in flight, refilled as they end.

Tasks take no futures as inputs and return small records, so the scheduler holds only what is in flight. Dask's own
queueing is off for tasks with resource labels (distributed#9164), and a graph of all tasks would not fit the scheduler
at a million tasks (distributed#5630); the window avoids both.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from uuid import uuid4

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from ssem_dask.runtime.execute import lost
from ssem_dask.runtime.executor import Work
from ssem_dask.task import Task, TaskReport

_IN_FLIGHT_PER_THREAD = 2


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task; at most two tasks a thread are in flight."""
        waiting = iter(tasks)
        running: dict[str, Task] = {}
        completed = as_completed()

        def submit(count: int) -> None:
            for task in islice(waiting, count):
                future = self._client.submit(work, task, key=f"{task.key}-{uuid4().hex}", pure=False)
                running[future.key] = task
                completed.add(future)

        submit(self._in_flight())
        for future in completed:
            task = running.pop(future.key)
            report = self._report(future, task)
            future.release()
            submit(self._in_flight() - len(running))
            yield report

    def close(self) -> None:
        """Disconnect, and stop the cluster if this client started it."""
        cluster = self._client.cluster
        self._client.close()
        if cluster is not None:
            cluster.close()

    def _in_flight(self) -> int:
        threads = int(sum(self._client.nthreads().values()))
        return max(1, _IN_FLIGHT_PER_THREAD * threads)

    @staticmethod
    def _report(future: Future, task: Task) -> TaskReport:
        error = future.exception()
        if error is None:
            report: TaskReport = future.result()
            return report
        if isinstance(error, KilledWorker):
            return lost(task, message=f"Every worker that ran {task.key} died; it may need more memory.", attempts=3)
        raise error
