"""Drivers and workers as threads of which one runs at a time, on a virtual clock, as a schedule says.

Each request to the store is a point at which its process may be suspended or killed, and so is the moment between the
question whether a shard may be written and its arrival in the store. What runs is real: lease, fence, ledger, search
for stale entries, tasks, shards. A process that was killed does nothing more: its next request raises `Killed`, and so
does every further one, whatever `finally` asks for.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from zarr.storage import LocalStore

from ssem_dask.driver import pipeline
from ssem_dask.errors import SsemDaskError
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.exclusive_driver import FencedWork, exclusive_driver
from ssem_dask.runtime.executor import Executor, ExecutorLoad, SerialExecutor, Work
from ssem_dask.storage import holder, lease, ledger, location
from ssem_dask.storage.fence import current_fence
from ssem_dask.storage.places import is_occupied
from ssem_dask.storage.run_group import create_run, read_run
from ssem_dask.task import Task, TaskReport
from tests.support.shard_pipeline import STAGES, Config, ToyJob, ToyPlan, attributes
from tests.support.toy_pipeline import Killed

STEP_S = 0.5
"""Seconds between two steps of the schedule."""
MAX_STEPS = 60_000


@dataclass(frozen=True)
class Event:
    """An incident in the life of a process, at a step of the schedule."""

    step: int
    kind: str
    """`start` (a driver), `suspend`, `kill`, or `hang` (the next shard of a worker does not arrive for long)."""
    who: int
    """Number of the driver or worker."""
    of_worker: bool = False
    seconds: float = 0.0
    config: Config = field(default_factory=lambda: Config(0, 1))


@dataclass(frozen=True, order=True)
class Ending:
    """How a driver ended."""

    generation: int
    """Number of its claim; 0: it got none."""
    config: Config = field(compare=False)
    how: str
    """`complete`, `incomplete`, `killed`, or the sentence to the user."""


class Process:
    """A driver or a worker: a thread that runs only when the simulation says so."""

    def __init__(self, simulation: "Simulation", name: str, run: Callable[["Process"], None]) -> None:
        self.name, self.killed, self.ended = name, False, False
        self.sleeps_until = self.suspended_until = 0.0
        self.waits_for: Callable[[], bool] = lambda: True
        self.hangs_for = 0.0
        self.order: Order | None = None
        self.was_late = False
        """Whether the last shard of the order arrived after a takeover; the worker then leaves a note."""
        self.beat: Callable[[], bool] | None = None
        self.next_beat, self.in_beat = 0.0, False
        self.go = threading.Semaphore(0)
        self.simulation = simulation
        self._run = run
        threading.Thread(target=self._main, name=name, daemon=True).start()

    def _main(self) -> None:
        PROCESS.set(self)
        self.go.acquire()
        try:
            with contextlib.suppress(Killed):
                self._run(self)
        except BaseException as error:  # noqa: BLE001  shown by the test
            self.simulation.errors.append(error)
        self.ended = True
        self.simulation.back.release()

    def is_ready(self, now: float) -> bool:
        if self.ended or now < self.suspended_until:
            return False
        due = self.beat is not None and now >= self.next_beat
        return due or self.killed or (now >= self.sleeps_until and self.waits_for())

    def pause(self) -> None:
        """Let others run; renew the lease if it is time."""
        self.simulation.back.release()
        self.go.acquire()
        if self.killed:
            raise Killed
        if self.beat is not None and not self.in_beat and self.simulation.now >= self.next_beat:
            self.in_beat = True
            self.next_beat = self.simulation.now + lease.RENEWAL_S
            if not self.beat():
                self.beat = None
            self.in_beat = False

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.waits_for = condition
            self.pause()
        self.waits_for = lambda: True

    def sleep(self, seconds: float) -> None:
        end = self.simulation.now + seconds
        self.sleeps_until = end
        while self.simulation.now < end:
            self.pause()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def point() -> None:
    """Mark a moment at which a process may be suspended or killed."""
    process = PROCESS.get()
    if process is not None:
        process.pause()


class SimulatedClock(lease.SystemClock):
    """The virtual clock."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation

    def now(self) -> float:
        return self._simulation.now

    def sleep(self, seconds: float) -> None:
        process = PROCESS.get()
        if process is None:
            self._simulation.now += seconds
        else:
            process.sleep(seconds)

    def repeat(self, call: Callable[[], bool], *, every: float) -> Callable[[], None]:
        process = PROCESS.get()
        if process is None:
            return lambda: None
        process.beat, process.next_beat = call, self.now() + every

        def end() -> None:
            process.beat = None

        return end


@dataclass
class Order:
    """A task that a driver has handed out."""

    work: Work
    task: Task
    driver: Process
    mailbox: "list[TaskReport | Order]"

    def is_superseded(self) -> bool:
        """Whether another driver has taken over from the one that handed it out."""
        assert isinstance(self.work, FencedWork)
        claim = self.work.claim
        return any(path.name.isdecimal() and int(path.name) > claim.generation for path in Path(claim.url).glob("*"))


class SharedCluster(Executor):
    """Two workers that all drivers share; the tasks of a driver that died run on, those that wait are forgotten."""

    dashboard = None

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        process = PROCESS.get()
        assert process is not None
        mailbox: list[TaskReport | Order] = []
        in_flight, waiting = 0, iter(tasks)
        while True:
            while in_flight < 3 and (task := next(waiting, None)) is not None:
                self._simulation.queue.append(Order(work, task, process, mailbox))
                in_flight += 1
            if not in_flight:
                return
            process.wait(lambda: bool(mailbox))
            ended = mailbox.pop(0)
            if isinstance(ended, Order):  # its worker was killed
                self._simulation.queue.append(ended)
            else:
                in_flight -= 1
                yield ended

    def load(self) -> ExecutorLoad:
        return ExecutorLoad(running=0, workers=2)

    def publish(self, numbers: Any) -> None: ...

    def close(self) -> None: ...


class Simulation:
    """Drivers and workers on one output."""

    def __init__(self, output: str, *, seed: int, one_host: bool) -> None:
        self.output, self.now, self.one_host = output, 0.0, one_host
        self.back = threading.Semaphore(0)
        self.queue: list[Order] = []
        self.errors: list[BaseException] = []
        self.endings: list[Ending] = []
        self.is_unknowable = False
        """Whether a worker was killed between a late shard and its note: nobody knows of the shard then."""
        self._random = random.Random(seed)
        self._drivers: dict[int, Process] = {}
        self._workers = [Process(self, f"worker {i}", self._work) for i in range(2)]
        self.clock = SimulatedClock(self)

    def run(self, events: list[Event]) -> None:
        """Run a schedule until nothing is left to do."""
        todo = sorted(events, key=lambda event: event.step)
        for step in range(MAX_STEPS):
            self.now += STEP_S
            while todo and todo[0].step <= step:
                self._apply(todo.pop(0))
            processes = [*self._drivers.values(), *self._workers]
            ready = [process for process in processes if process.is_ready(self.now)]
            if ready:
                chosen = self._random.choice(ready)
                chosen.go.release()
                self.back.acquire()
                if chosen.ended and chosen in self._workers:  # a nanny starts another one
                    self._workers[self._workers.index(chosen)] = Process(self, chosen.name, self._work)
                continue
            later = [t for p in processes if not p.ended for t in (p.sleeps_until, p.suspended_until) if t > self.now]
            if not todo:
                if not later:
                    return
                self.now = min(later)  # nobody can do anything before then
        raise AssertionError("the schedule does not end")

    def finish(self, config: Config) -> None:
        """Run again, undisturbed."""
        self._drive(config, SerialExecutor())

    def config(self) -> Config:
        """Return the configuration that was accepted last."""
        return Config(**read_run(self.output).config)

    def _apply(self, event: Event) -> None:
        if event.kind == "start":
            former = self._drivers.get(event.who)
            if former is None or former.ended:
                self._drivers[event.who] = Process(
                    self, f"driver {event.who}", lambda process: self._drive(event.config, SharedCluster(self))
                )
            return
        process = self._workers[event.who] if event.of_worker else self._drivers.get(event.who)
        if process is None or process.ended or process.killed:
            return
        if event.kind == "suspend":
            process.suspended_until = self.now + event.seconds
        elif event.kind == "hang":
            process.hangs_for = event.seconds
        else:
            process.killed, process.suspended_until = True, 0.0
            self.queue[:] = [order for order in self.queue if order.driver is not process]

    def close(self) -> None:
        """End the threads of the workers, which wait for tasks."""
        for process in self._workers:
            process.killed = True
            process.go.release()
            self.back.acquire()

    def _drive(self, config: Config, executor: Executor) -> None:
        plan = ToyPlan(ToyJob(self.output, config))
        generation, how = 0, "killed"
        try:
            with exclusive_driver(self.output, executor, clock=self.clock) as guarded:
                fence = current_fence()
                assert isinstance(fence, lease.Lease)
                generation = fence.claim.generation
                if not is_occupied(self.output):
                    create_run(self.output, attributes=attributes(plan))
                summary = pipeline.resume(
                    cast(pipeline.Plan, plan), None, executor=guarded, observer=SilentObserver(), allow_missing=False
                )
            how = summary.state
        except SsemDaskError as error:
            how = str(error)
        finally:
            self.endings.append(Ending(generation, config, how))

    def _work(self, process: Process) -> None:
        while True:
            process.order = None
            process.wait(lambda: bool(self.queue))
            order = self.queue.pop(self._random.randrange(len(self.queue)))
            process.order, process.was_late = order, False
            assert isinstance(order.work, FencedWork)
            try:
                report = replace(order.work, clock=self.clock)(order.task)
            except Killed:  # its driver hands the task out again
                self.is_unknowable |= process.was_late
                order.mailbox.append(replace(order, task=replace(order.task, lost=order.task.lost + 1)))
                raise
            order.mailbox.append(report)


@contextlib.contextmanager
def simulated(simulation: Simulation) -> Iterator[None]:
    """Make every request to the store a point of the schedule, and the pipeline one of toy stages."""
    put = LocalStore.set

    async def late_put(store: LocalStore, key: str, value: Any) -> None:
        process = PROCESS.get()
        if process is not None and "c/" in key:
            if process.hangs_for:
                process.suspended_until, process.hangs_for = simulation.now + process.hangs_for, 0.0
            await asyncio.to_thread(point)
        await put(store, key, value)
        if process is not None and "c/" in key and process.order is not None:
            process.was_late = process.order.is_superseded()

    def with_point(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            point()
            return call(*arguments, **options)

        return called

    class OneByOne:
        """A pool whose threads would need points of their own."""

        def __init__(self, _count: int) -> None: ...

        def __enter__(self) -> "OneByOne":
            return self

        def __exit__(self, *_error: object) -> None: ...

        map = staticmethod(map)

    names = ("read_bytes", "write_bytes", "create_bytes", "list_tags", "delete")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(location, name, with_point(getattr(location, name))))
        stack.enter_context(patch.object(LocalStore, "set", late_put))
        stack.enter_context(patch.object(ledger, "ThreadPoolExecutor", OneByOne))
        stack.enter_context(patch.object(lease, "_POLL_S", 5.0))
        if not simulation.one_host:
            stack.enter_context(patch.object(holder, "_boot_id", lambda: ""))
        for name, toy in {
            "STAGES": STAGES,
            "run_attributes": attributes,
            "restore_metadata": lambda job, stages, ledger: [],
            "read_fingerprints": lambda job: {},
            "changed_sections": lambda job, fingerprints: [],
            "save_fingerprints": lambda job, fingerprints: None,
            "changed_while_read": lambda job, fingerprints: "",
            "publish_attributes": lambda job, summary: None,
            "TaskOverrides": lambda job, given: lambda task: task,
        }.items():
            stack.enter_context(patch.object(pipeline, name, toy))
        stack.enter_context(patch.object(pipeline, "delete", with_point(location.delete)))
        yield
