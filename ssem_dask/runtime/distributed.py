"""The Dask executor: a bounded window of tasks in flight, refilled as they end.

Tasks take no futures as inputs and return small records, so the scheduler holds only what is in flight. Dask's own
queueing is off for tasks with resource labels (distributed#9164), and a graph of all tasks would not fit the scheduler
at a million tasks (distributed#5630); the window avoids both.

Faults, and what becomes of the task:

- its worker dies: Dask reassigns it up to `allowed-failures` times; after that it is tried again at the end, alone;
- it hangs: after its deadline its worker is restarted and the task is resubmitted; the second time it fails;
- the scheduler dies: tasks in flight are resubmitted as soon as there is a scheduler at the same address.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from distributed import Client, Future, get_worker
from distributed.scheduler import KilledWorker

from ssem_dask.errors import ClusterError
from ssem_dask.runtime.deaths import deaths, describe_deaths
from ssem_dask.runtime.execute import unfinished
from ssem_dask.runtime.executor import Executor, ExecutorLoad, Work
from ssem_dask.runtime.placement import GPU, has_labels, task_labels
from ssem_dask.runtime.pool import Pool
from ssem_dask.runtime.prometheus import set_metrics
from ssem_dask.runtime.window import IN_FLIGHT_PER_THREAD, Deadline, Flight, Window
from ssem_dask.shown import Secrets, known_secrets, remember_secrets
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.task import Cause, Task, TaskReport

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
"""Seconds between two checks of the deadlines and of the cluster."""
_MAX_TRIES = 2
"""Times that a task may reach its deadline before it has failed."""
_ASK_S = 30.0
"""Seconds after which the scheduler is asked again about a task that it has not reported."""
_RESULT_S = 60.0
"""Seconds for which the report of a task that has ended is awaited; its worker may be gone."""
_RESTART_S = 30.0
_CLUSTER_LOGGERS = ("distributed", "tornado.application")
"""Loggers of a cluster's parts, which report each other's shutdown as errors, with tracebacks."""
_CLUSTER_PATIENCE_S = 1800.0
"""Seconds without a scheduler, or without any worker, after which the run is given up."""


class DaskExecutor(Executor):
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
            reconnect: makes a new client if the scheduler returns after it was lost; raises OSError while there is
                none. None: the scheduler dies with this process.
            deadline: seconds that a task may run; None: 20 times the longest of its stage so far, at least 10 min.
            pool: number of workers by stage; None: it is never changed.
        """
        self._client = client
        self._cluster_labels = dict(resources or {})
        self._labels = dict(self._cluster_labels)
        """Labels of the current stage."""
        self._gpus, self._gpu_threads = 0, 1
        """Most workers with a GPU seen at the start of a stage: if all of them are gone, the next one is awaited."""
        self._pool = pool
        self._flights: dict[str, Flight] = {}
        """Tasks in flight."""
        self._publishes = True
        self._reconnect = reconnect
        self._deadline = deadline
        self._threads, self._threads_counted_at = 1, float("-inf")
        self._last_worker = time.monotonic()
        self._topic = f"ssem-dask-{uuid4().hex}"
        self._started: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._subscribe()
        logging.getLogger("tornado.application").addFilter(_is_no_interrupted_request)

    @property
    def client(self) -> Client:
        """The Dask client, for what the executor's interface does not offer."""
        return self._client

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard."""
        link = self._client.dashboard_link
        if self._client.cluster is not None and find_spec("bokeh") is None:
            return None  # the scheduler is a child of this process: its page would only say that Bokeh is missing
        return str(link) if link else None

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run `work` on each task, with at most two tasks per thread in flight.

        When a worker dies, Dask blames every task that waited on it. So a task whose workers died is tried again at the
        end, alone: only a task that then kills its workers is reported as lost.

        Raises:
            ClusterError: there has been no scheduler, or no worker, for half an hour.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        self._enter(first)
        tasks = chain([first], tasks)
        deadline = Deadline(self._deadline)
        suspects: list[Task] = []
        for task, report in self._stream(work, tasks, deadline, in_flight=None):
            if report is None:
                suspects.append(replace(task, lost=task.lost + 1))
            else:
                yield report
        since = deaths()
        for task, report in self._stream(work, suspects, deadline, in_flight=1):
            message = f"Every worker that ran {task.key} died ({describe_deaths(since)})."
            since = deaths()
            yield report or unfinished(replace(task, lost=task.lost + 1), cause=Cause.WORKER_LOST, message=message)

    def load(self) -> ExecutorLoad:
        """Return the current load; tasks in flight beyond the number of threads wait at the workers."""
        threads = self._client.nthreads()
        running = min(len(self._flights), int(sum(threads.values())))
        return ExecutorLoad(running=running, workers=len(threads), gpus=self._gpus, gpu_threads=self._gpu_threads)

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
        with silenced_loggers():
            self._client.close()
            if cluster is not None:
                try:
                    cluster.close()
                except Exception as error:  # noqa: BLE001  all work has ended, and what is left ends with this process
                    _LOG.info("The cluster was not closed in order: %s", error)
        logging.getLogger("tornado.application").removeFilter(_is_no_interrupted_request)

    def _enter(self, task: Task) -> None:
        """Resize the pool for the stage of a task, and find out which workers its tasks may go to."""
        if self._pool is not None:
            self._pool.enter(task.stage)
        workers = self._connected().scheduler_info(n_workers=-1)["workers"].values()
        with_gpu = [worker for worker in workers if has_labels(worker, {GPU: 1})]
        self._gpus = max(self._gpus, len(with_gpu))
        self._gpu_threads = max((worker["nthreads"] for worker in with_gpu), default=self._gpu_threads)
        self._labels = task_labels(uses_gpu=task.uses_gpu, has_gpus=self._gpus > 0, cluster_labels=self._cluster_labels)
        self._threads_counted_at = float("-inf")

    def _stream(
        self, work: Work, tasks: Iterable[Task], deadline: Deadline, *, in_flight: int | None
    ) -> Iterator[tuple[Task, TaskReport | None]]:
        """Submit tasks as others end; `in_flight` None: two for each thread that exists at the time.

        Yields:
            Each task and its report; None if it was lost with its workers.
        """
        window = Window(iter(tasks))
        self._flights = window.flights
        polled = time.monotonic()
        while True:
            self._refill(window, work, in_flight)
            if not window.flights:
                return
            with suppress(Empty):
                future = window.ended.get(timeout=_POLL_S)
                flight = window.flights.get(future.key)
                if flight is not None and flight.future is future:
                    del window.flights[future.key]
                    try:
                        report = _report(future)
                    except _ConnectionLostError:
                        recorded = _recorded_report(flight.task)
                        if recorded is not None:
                            yield flight.task, recorded
                        else:
                            window.resubmit.append(flight)
                    else:
                        future.release()
                        deadline.longest = max(deadline.longest, 0.0 if report is None else report.seconds)
                        yield flight.task, report
            if time.monotonic() - polled >= _POLL_S:
                polled = time.monotonic()
                yield from self._poll(window, deadline)

    def _refill(self, window: Window, work: Work, in_flight: int | None) -> None:
        free = (in_flight or self._in_flight()) - len(window.flights)  # below 0 just after workers were lost
        while free > 0:
            free -= 1
            flight = window.resubmit.popleft() if window.resubmit else None
            task = flight.task if flight else next(islice(window.waiting, 1), None)
            if task is None:
                return
            client = self._connected()
            key = f"{task.key}-{uuid4().hex}"
            future = client.submit(
                _announce_and_run,
                work,
                task,
                key,
                self._topic,
                known_secrets(),
                key=key,
                pure=False,
                resources=self._labels or None,
            )
            window.flights[key] = Flight(task, future, time.monotonic(), tries=flight.tries if flight else 1)
            future.add_done_callback(window.ended.put)

    def _poll(self, window: Window, deadline: Deadline) -> Iterator[tuple[Task, TaskReport | None]]:
        """Check the cluster, and restart or fail tasks that have reached their deadline."""
        now = time.monotonic()
        with suppress(Empty):
            while True:
                key, worker = self._started.get_nowait()
                if key in window.flights:
                    window.flights[key].started, window.flights[key].worker = now, worker
        if self._client.status == "running" and self._count_threads() == 0:
            idle = now - self._last_worker
            if idle > _CLUSTER_PATIENCE_S:
                wanted = "".join(f" with the label {name}" for name in self._labels)
                raise ClusterError(
                    f"The cluster has had no worker{wanted} for {idle:.0f} s; start workers, then run the same command "
                    "again."
                )
        else:
            self._last_worker = now
        self._look_at_futures(window, now)
        for flight in [f for f in window.flights.values() if f.is_overdue(now, deadline.seconds)]:
            del window.flights[flight.future.key]
            seconds = now - (flight.started or flight.submitted)
            self._cancel(flight)
            if flight.tries < _MAX_TRIES:
                task = replace(flight.task, attempt=flight.task.attempt + 1)
                window.resubmit.append(replace(flight, task=task, tries=flight.tries + 1))
                continue
            message = f"It did not end within {deadline.seconds:.0f} s, {_MAX_TRIES} times; its worker was restarted."
            yield (
                flight.task,
                unfinished(flight.task, cause=Cause.TIMEOUT, message=message, worker=flight.worker, seconds=seconds),
            )

    def _look_at_futures(self, window: Window, now: float) -> None:
        """Find tasks that have ended though the client did not call back, and ask the scheduler about quiet ones.

        Both happen when workers die: a message about the end of a task crosses one that sends it to another worker.
        """
        for flight in window.flights.values():
            if flight.future.status != "pending":
                window.ended.put(flight.future)
            elif now - flight.asked > _ASK_S and self._client.status == "running":
                flight.asked = now
                message = {"op": "report-key", "key": flight.future.key}
                self._client.loop.add_callback(self._client._send_to_scheduler, message)

    def _cancel(self, flight: Flight) -> None:
        """Cancel a task and restart its worker, which it may block; a worker without a nanny is not restarted."""
        key = flight.future.key
        worker = flight.worker or next((w for w, keys in self._client.processing().items() if key in keys), "")
        flight.future.cancel(force=True)
        if worker:
            with suppress(ValueError, KeyError, OSError, TimeoutError):
                self._client.restart_workers([worker], timeout=_RESTART_S, raise_for_error=False)

    def _connected(self) -> Client:
        """Return the client; if its scheduler was lost, wait for a scheduler and return a new client."""
        end = time.monotonic() + _CLUSTER_PATIENCE_S
        while self._client.status != "running":
            if self._reconnect is None or time.monotonic() > end:
                raise ClusterError("Lost connection to the scheduler; restart it, then run the same command again.")
            if self._client.status == "closed":
                with suppress(OSError):
                    self._client = self._reconnect()
                    self._subscribe()
            time.sleep(_POLL_S / 4)
        return self._client

    def _subscribe(self) -> None:
        def started(event: tuple[float, Any]) -> None:
            message = event[1]
            self._started.put((message["key"], message["worker"]))

        self._client.subscribe_topic(self._topic, started)

    def _in_flight(self) -> int:
        if time.monotonic() - self._threads_counted_at > _POLL_S:
            self._count_threads()
        return max(1, IN_FLIGHT_PER_THREAD * self._threads)

    def _count_threads(self) -> int:
        """Count the threads of all workers that may run the stage's tasks, by a request to the scheduler."""
        client = self._connected()
        with suppress(OSError, TimeoutError):  # lost just now: the next poll will notice
            if self._labels:
                workers = client.scheduler_info(n_workers=-1)["workers"].values()
                self._threads = sum(int(w["nthreads"]) for w in workers if has_labels(w, self._labels))
            else:
                self._threads = int(sum(client.nthreads().values()))
            self._threads_counted_at = time.monotonic()
        return self._threads


@contextmanager
def silenced_loggers() -> Iterator[None]:
    """Silence shutdown log messages that users would mistake for errors."""
    loggers = [logging.getLogger(name) for name in _CLUSTER_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_no_interrupted_request(record: logging.LogRecord) -> bool:
    """Filter out the traceback that distributed logs if Ctrl-C interrupts a request before it was sent."""
    return "sync.<locals>.cancel" not in record.getMessage()


def _announce_and_run(work: Work, task: Task, key: str, topic: str, secrets: Secrets) -> TaskReport:
    """Announce the worker on which a task begins, because its deadline counts from now, then run the task."""
    remember_secrets(secrets)
    worker = get_worker()
    worker.log_event(topic, {"key": key, "worker": worker.address})
    return work(task)


def _recorded_report(task: Task) -> TaskReport | None:
    """Return the ledger's report of a task that ended well although nobody could receive its report."""
    entry = open_ledger(task.output).read(task.key)
    return entry if entry is not None and entry.digest == task.digest and entry.outcome.is_done else None


class _ConnectionLostError(Exception):
    """The scheduler, or the worker that holds a result, is gone; the task may have ended all the same."""


def _report(future: Future) -> TaskReport | None:
    """Return the report of a task that has ended; None if it was lost with its workers.

    Raises:
        _ConnectionLostError: the scheduler, or the worker that holds the report, is unreachable.
    """
    if future.status in ("cancelled", "lost"):
        raise _ConnectionLostError
    try:
        error = future.exception(timeout=_RESULT_S)
        report: TaskReport | None = future.result(timeout=_RESULT_S) if error is None else None
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError) as lost:
        raise _ConnectionLostError from lost
    if isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError):
        raise _ConnectionLostError from error
    if error is not None and not isinstance(error, KilledWorker):
        raise error
    return report
