"""The Dask executor: a bounded number of tasks in flight, refilled as they end.

Tasks take no futures as inputs and return small records, so the scheduler holds only what is in flight. Dask's own
queueing is off for tasks with resource labels (distributed#9164), and a graph of all tasks would not fit the scheduler
at a million tasks (distributed#5630); the window avoids both.

What may happen, and what then becomes of a task:
- its worker dies: Dask gives it to another one, `allowed-failures` times; then it is tried once more, alone;
- it hangs: after its deadline its worker is restarted and the task is given out again; the second time it has failed;
- the scheduler dies: what was in flight is given out again as soon as there is a scheduler at the same address.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from distributed import Client, Future, get_worker
from distributed.scheduler import KilledWorker

from ssem_dask.errors import ClusterError
from ssem_dask.runtime.execute import unfinished
from ssem_dask.runtime.executor import ExecutorLoad, Work
from ssem_dask.runtime.placement import GPU, has_labels, labels_of
from ssem_dask.runtime.pool import Pool
from ssem_dask.runtime.prometheus import set_metrics
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.task import Cause, Task, TaskReport

_IN_FLIGHT_PER_THREAD = 2
_LOG = logging.getLogger(__name__)
_LOOK = 1.0
"""Seconds between two looks at the deadlines and at the cluster."""
_TRIES = 2
"""How often a task may reach its deadline until it has failed."""
_FIRST_DEADLINE = 3600.0  # s, while no task of the stage has ended
_LEAST_DEADLINE = 600.0  # s
_TIMES_LONGEST = 20.0  # the deadline, in times of the longest task of the stage so far
_RESTART_SECONDS = 30.0
_CHATTER = ("distributed", "tornado.application")
"""Loggers of what a cluster is made of: on its way down its parts complain of each other's going, with tracebacks."""
_CLUSTER_PATIENCE = 1800.0
"""Seconds without a scheduler, or without any worker, until the run is given up."""


@dataclass(slots=True)
class _Flight:
    """A task in flight."""

    task: Task
    future: Future
    submitted: float
    started: float | None = None
    worker: str = ""
    tries: int = 1
    """How often it was given out; the deaths of its workers do not count."""


@dataclass(slots=True)
class _Deadline:
    """How long the tasks of a stage take, and so may take."""

    given: float | None
    longest: float = 0.0

    @property
    def deadline(self) -> float:
        """Seconds that a task may run."""
        if self.given is not None:
            return self.given
        return max(_LEAST_DEADLINE, _TIMES_LONGEST * self.longest) if self.longest else _FIRST_DEADLINE


@dataclass(slots=True)
class _Window:
    """What is in flight, and what waits for it."""

    waiting: Iterator[Task]
    again: deque[_Flight] = field(default_factory=deque)
    flights: dict[str, _Flight] = field(default_factory=dict)
    ended: "SimpleQueue[Future]" = field(default_factory=SimpleQueue)


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(
        self,
        client: Client,
        *,
        resources: Mapping[str, float] | None = None,
        reconnect: Callable[[], Client] | None = None,
        deadline: float | None = None,
        pool: Pool | None = None,
    ) -> None:
        """Run tasks by a client.

        Args:
            client: of the cluster; closed by `close`.
            resources: labels with the amounts of each that a task takes, beside those of its stage (see `placement`).
            reconnect: makes another client where the scheduler came back after it was lost; raises OSError while there
                is none. None: the scheduler dies with this process.
            deadline: seconds that a task may run; None: 20 times the longest of its stage so far, at least 10 min.
            pool: number of workers by stage; None: it is not changed.
        """
        self._client = client
        self._given = dict(resources or {})
        self._labels = dict(self._given)
        """Of the current stage."""
        self._gpus = 0
        """Most workers with a GPU that there were when a stage began: should all be gone, one is waited for."""
        self._pool = pool
        self._flights: dict[str, _Flight] = {}
        """What is in flight."""
        self._publishes = True
        self._reconnect = reconnect
        self._deadline = deadline
        self._threads, self._threads_at = 1, float("-inf")
        self._last_worker = time.monotonic()
        self._topic = f"ssem-dask-{uuid4().hex}"
        self._started: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._subscribe()

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard."""
        link = self._client.dashboard_link
        if self._client.cluster is not None and find_spec("bokeh") is None:
            return None  # the scheduler is a child of this process: its page would only say that Bokeh is missing
        return str(link) if link else None

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task; at most two tasks a thread are in flight.

        Dask blames every task that waited on a worker when it died. So a task whose workers died is tried once more
        at the end, alone: only what kills its workers then is reported as lost.

        Raises:
            ClusterError: there has been no scheduler, or no worker, for half an hour.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        self._enter(first.stage)
        tasks = chain([first], tasks)
        pace = _Deadline(self._deadline)
        suspects: list[Task] = []
        for task, report in self._stream(work, tasks, pace, in_flight=None):
            if report is None:
                suspects.append(replace(task, lost=task.lost + 1))
            else:
                yield report
        for task, report in self._stream(work, suspects, pace, in_flight=1):
            message = f"Every worker that ran {task.key} died; it may need more memory than a worker has."
            yield report or unfinished(replace(task, lost=task.lost + 1), cause=Cause.WORKER_LOST, message=message)

    def load(self) -> ExecutorLoad:
        """Tasks beyond the threads that there are wait at the workers."""
        threads = self._client.nthreads()
        running = min(len(self._flights), int(sum(threads.values())))
        return ExecutorLoad(running=running, workers=len(threads), gpus=self._gpus)

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
        with _silenced():
            self._client.close()
            if cluster is not None:
                cluster.close()

    def _enter(self, stage: str) -> None:
        """Know which workers a stage's tasks may go to, and have as many as it wants."""
        if self._pool is not None:
            self._pool.enter(stage)
        workers = self._connected().scheduler_info(n_workers=-1)["workers"].values()
        self._gpus = max(self._gpus, sum(has_labels(worker, {GPU: 1}) for worker in workers))
        self._labels = labels_of(stage, gpus=self._gpus > 0, given=self._given)
        self._threads_at = float("-inf")

    def _stream(
        self, work: Work, tasks: Iterable[Task], pace: _Deadline, *, in_flight: int | None
    ) -> Iterator[tuple[Task, TaskReport | None]]:
        """Submit tasks as others end; None in flight: two for each thread that there is at the time.

        Yields:
            Each task and its report; None where it was lost with its workers.
        """
        window = _Window(iter(tasks))
        self._flights = window.flights
        looked = time.monotonic()
        while True:
            self._refill(window, work, in_flight)
            if not window.flights:
                return
            with suppress(Empty):
                future = window.ended.get(timeout=_LOOK)
                flight = window.flights.get(future.key)
                if flight is not None and flight.future is future:
                    del window.flights[future.key]
                    try:
                        report = _report(future)
                    except _ConnectionLostError:
                        told = _told_by_ledger(flight.task)
                        if told is not None:
                            yield flight.task, told
                        else:
                            window.again.append(flight)
                    else:
                        future.release()
                        pace.longest = max(pace.longest, 0.0 if report is None else report.seconds)
                        yield flight.task, report
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                yield from self._look(window, pace)

    def _refill(self, window: _Window, work: Work, in_flight: int | None) -> None:
        free = (in_flight or self._in_flight()) - len(window.flights)  # below 0 just after workers were lost
        while free > 0:
            free -= 1
            flight = window.again.popleft() if window.again else None
            task = flight.task if flight else next(islice(window.waiting, 1), None)
            if task is None:
                return
            client = self._connected()
            key = f"{task.key}-{uuid4().hex}"
            future = client.submit(
                _announced, work, task, key, self._topic, key=key, pure=False, resources=self._labels or None
            )
            window.flights[key] = _Flight(task, future, time.monotonic(), tries=flight.tries if flight else 1)
            future.add_done_callback(window.ended.put)

    def _look(self, window: _Window, pace: _Deadline) -> Iterator[tuple[Task, TaskReport | None]]:
        """Look at the cluster, and for tasks that have reached their deadline."""
        now = time.monotonic()
        with suppress(Empty):
            while True:
                key, worker = self._started.get_nowait()
                if key in window.flights:
                    window.flights[key].started, window.flights[key].worker = now, worker
        if self._client.status == "running" and self._count_threads() == 0:
            idle = now - self._last_worker
            if idle > _CLUSTER_PATIENCE:
                wanted = "".join(f" with the label {name}" for name in self._labels)
                raise ClusterError(
                    f"The cluster has had no worker{wanted} for {idle:.0f} s; start some, then run it again."
                )
        else:
            self._last_worker = now
        for flight in [f for f in window.flights.values() if _overdue(f, now, pace.deadline)]:
            del window.flights[flight.future.key]
            seconds = now - (flight.started or flight.submitted)
            self._restart(flight)
            if flight.tries < _TRIES:
                task = replace(flight.task, attempt=flight.task.attempt + 1)
                window.again.append(replace(flight, task=task, tries=flight.tries + 1))
                continue
            message = f"It did not end within {pace.deadline:.0f} s, {_TRIES} times; its worker was restarted."
            yield (
                flight.task,
                unfinished(flight.task, cause=Cause.TIMEOUT, message=message, worker=flight.worker, seconds=seconds),
            )

    def _restart(self, flight: _Flight) -> None:
        """Give a task up, and restart the worker that it holds; one without a nanny stays as it is."""
        key = flight.future.key
        worker = flight.worker or next((w for w, keys in self._client.processing().items() if key in keys), "")
        flight.future.cancel(force=True)
        if worker:
            with suppress(ValueError, KeyError, OSError, TimeoutError):
                self._client.restart_workers([worker], timeout=_RESTART_SECONDS, raise_for_error=False)

    def _connected(self) -> Client:
        """The client; where its scheduler was lost, another one as soon as there is a scheduler again."""
        end = time.monotonic() + _CLUSTER_PATIENCE
        while self._client.status != "running":
            if self._reconnect is None or time.monotonic() > end:
                raise ClusterError("The scheduler of the cluster is lost; start it again, then run it again.")
            if self._client.status == "closed":
                with suppress(OSError):
                    self._client = self._reconnect()
                    self._subscribe()
            time.sleep(_LOOK / 4)
        return self._client

    def _subscribe(self) -> None:
        def started(event: tuple[float, Any]) -> None:
            message = event[1]
            self._started.put((message["key"], message["worker"]))

        self._client.subscribe_topic(self._topic, started)

    def _in_flight(self) -> int:
        if time.monotonic() - self._threads_at > _LOOK:
            self._count_threads()
        return max(1, _IN_FLIGHT_PER_THREAD * self._threads)

    def _count_threads(self) -> int:
        """Threads of all workers that may be given the stage's tasks; asked of the scheduler, so not for each task."""
        client = self._connected()
        with suppress(OSError, TimeoutError):  # lost just now: the next look will tell
            if self._labels:
                workers = client.scheduler_info(n_workers=-1)["workers"].values()
                self._threads = sum(int(w["nthreads"]) for w in workers if has_labels(w, self._labels))
            else:
                self._threads = int(sum(client.nthreads().values()))
            self._threads_at = time.monotonic()
        return self._threads


@contextmanager
def _silenced() -> Iterator[None]:
    """Let a cluster go without its parts' last words, which a user would take for an error."""
    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _announced(work: Work, task: Task, key: str, topic: str) -> TaskReport:
    """Say on which worker a task begins, since its deadline counts from there, then do it."""
    worker = get_worker()
    worker.log_event(topic, {"key": key, "worker": worker.address})
    return work(task)


def _told_by_ledger(task: Task) -> TaskReport | None:
    """The report of a task that ended well though nobody was there to be told."""
    entry = open_ledger(task.output).read(task.key)
    return entry if entry is not None and entry.digest == task.digest and entry.outcome.stands else None


def _overdue(flight: _Flight, now: float, deadline: float) -> bool:
    """A task that never said that it began may have waited for others of its worker."""
    if flight.started is not None:
        return now - flight.started > deadline
    return now - flight.submitted > (1 + _IN_FLIGHT_PER_THREAD) * deadline


class _ConnectionLostError(Exception):
    """The scheduler, or the worker that holds a result, is gone; the task may have ended all the same."""


def _report(future: Future) -> TaskReport | None:
    """The report of a task that has ended; None if it was lost with its workers.

    Raises:
        _ConnectionLostError: nobody is there to be asked.
    """
    if future.status in ("cancelled", "lost"):
        raise _ConnectionLostError
    try:
        error = future.exception()
        report: TaskReport | None = future.result() if error is None else None
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError) as lost:
        raise _ConnectionLostError from lost
    if isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError):
        raise _ConnectionLostError from error
    if error is not None and not isinstance(error, KilledWorker):
        raise error
    return report
