"""The numbers of a run, and what the terminal makes of them."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssem_dask.cli.progress_display import Bars, Events, Lines, RecentLoad
from ssem_dask.runtime.events import Observer, SilentObserver, StageStarted
from ssem_dask.runtime.executor import ExecutorLoad, SerialExecutor
from ssem_dask.runtime.progress import PublishingObserver, StageProgress
from ssem_dask.runtime.watch import LedgerWatch
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Cause, Outcome, TaskReport


class Clock:
    """A clock that advances when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ended(index: int, *, stage: str = "register", failed: bool = False, digest: str = "d") -> TaskReport:
    return TaskReport(
        key=f"{stage}/{index:06d}",
        digest=digest,
        outcome=Outcome.FAILED if failed else Outcome.OK,
        cause=Cause.IO if failed else None,
        message="the disk is full" if failed else "",
        pixels=1000,
        bytes_read=10,
        bytes_written=5,
    )


STARTED = StageStarted(stage="register", tasks=100, pixels=100_000, done_tasks=20, done_pixels=20_000)


def test_one_task_is_not_tasks() -> None:
    said: list[str] = []
    clock = Clock()
    list(play(Lines(said.append, lambda: ExecutorLoad(1, 1), clock=clock), clock, tasks=1, seconds=1.0, failed=0))
    assert said[0] == "register: 1 task"
    assert said[-1].startswith("register: 1 of 1 task in ")


def test_rate_and_remaining_time_count_what_ends_now() -> None:
    progress = StageProgress.from_event(STARTED, now=0.0)
    assert progress.seconds_left(1.0) is None
    for i in range(10):
        progress.add(ended(i, failed=i == 3))
    assert (progress.done, progress.failed) == (29, 1)
    assert progress.rate(5.0) == 2000.0
    assert progress.seconds_left(5.0) == 35.0
    numbers = progress.numbers(5.0, ExecutorLoad(running=4, workers=2))
    assert (numbers["bytes_read"], numbers["bytes_written"], numbers["pixels_done"]) == (100, 50, 30_000)
    assert (numbers["running"], numbers["workers"], numbers["seconds_left"]) == (4, 2, 35.0)
    assert progress.numbers(5.0, None)["workers"] is None


def play(observer: Observer, clock: Clock, *, tasks: int, seconds: float, failed: int) -> Iterator[int]:
    """A stage of many tasks, spread over some time."""
    observer.stage_started(
        StageStarted(stage="register", tasks=tasks, pixels=tasks * 1000, done_tasks=0, done_pixels=0)
    )
    for i in range(tasks):
        clock.now += seconds / tasks
        observer.task_ended(ended(i, failed=i < failed))
        yield i
    observer.stage_ended("register")


def test_lines_of_a_hundred_thousand_tasks_are_few() -> None:
    clock = Clock()
    said: list[str] = []
    lines = Lines(said.append, lambda: ExecutorLoad(8, 4), clock=clock)
    list(play(lines, clock, tasks=100_000, seconds=600.0, failed=5000))
    assert len(said) <= 60 + 2 + 20
    assert said[0] == "register: 100,000 tasks"
    assert "the disk is full" in said[1]
    halfway = next(line for line in said if line.startswith("register: 50,"))
    for part in ("5,000 failed", "8 running on 4 workers", "kpx/s", "read", "wrote", "left"):
        assert part in halfway
    assert said[-1] == "register: 100,000 of 100,000 tasks in 10 min 0 s, 5,000 failed, 167 kpx/s"


def test_events_are_json_lines_and_few() -> None:
    clock, stream = Clock(), io.StringIO()
    events = Events(Console(file=stream), lambda: ExecutorLoad(8, 4), clock=clock)
    events.note("[brackets] are text")
    list(play(events, clock, tasks=100_000, seconds=60.0, failed=5000))
    printed = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(printed) <= 1 + 60 + 2 + 20
    assert printed[0] == {"event": "note", "message": "[brackets] are text"}
    assert (printed[1]["event"], printed[-1]["event"]) == ("stage_started", "stage_ended")
    assert printed[2] == {
        "event": "task_failed",
        "key": "register/000000",
        "cause": "io",
        "message": "the disk is full",
    }
    assert (printed[-1]["done"], printed[-1]["failed"], printed[-1]["seconds_left"]) == (95_000, 5000, 0.0)


def test_bars_fit_into_eighty_columns_and_do_not_grow() -> None:
    clock = Clock()
    bars = Bars(lambda: ExecutorLoad(8, 4), clock=clock)
    for i in play(bars, clock, tasks=1000, seconds=100.0, failed=3):
        if i == 500:
            break
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(bars.render())
    lines = console.export_text().rstrip().splitlines()
    assert len(lines) <= 3
    assert all(len(line) <= 80 for line in lines)
    assert "501/1,000" in lines[0]
    assert "left" in lines[0]
    assert "3 failed" in lines[0]
    assert "8 running on 4 workers" in lines[1]


def test_the_load_is_asked_once_a_second() -> None:
    clock, asked = Clock(), []

    def ask() -> ExecutorLoad:
        asked.append(clock.now)
        return ExecutorLoad(len(asked), 1)

    load = RecentLoad(ask, clock=clock)
    assert [load().running, load().running] == [1, 1]
    clock.now += 1.0
    assert load().running == 2


class Publishing(SerialExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.published: list[Mapping[str, Any]] = []

    def publish(self, numbers: Mapping[str, Any]) -> None:
        self.published.append(numbers)


def test_numbers_are_published_once_a_second_and_at_the_end() -> None:
    clock, executor = Clock(), Publishing()
    list(play(PublishingObserver(SilentObserver(), executor, clock), clock, tasks=10_000, seconds=10.0, failed=0))
    assert 5 <= len(executor.published) <= 12
    assert executor.published[0]["done"] == 0
    assert executor.published[-1]["done"] == 10_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path))


def test_a_watch_counts_what_comes_in(ledger: Ledger) -> None:
    clock = Clock()
    watch = LedgerWatch(
        ledger,
        tasks={"register": 4, "render": 2},
        pixels={"register": 4000, "render": 2000},
        digests={"register": "d", "render": "e"},
        clock=clock,
    )
    ledger.write(ended(0))
    ledger.write(ended(1, digest="old"))
    ledger.write(ended(2, failed=True))
    register, render = watch.poll()
    assert (register.done, register.failed, register.pixels_before, register.seconds_left(clock.now)) == (
        1,
        1,
        1000,
        None,
    )
    assert (render.done, render.tasks) == (0, 2)
    clock.now += 10
    ledger.write(ended(1))
    ledger.write(ended(2))
    register, _ = watch.poll()
    assert (register.done, register.failed) == (3, 0)
    assert register.rate(clock.now) == 200.0
    assert register.seconds_left(clock.now) == 5.0


def test_a_watch_reads_each_settled_entry_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(50):
        ledger.write(ended(i, failed=i == 7))
    watch = LedgerWatch(ledger, tasks={"register": 50}, pixels={"register": 50_000}, digests={"register": "d"})
    watch.poll()
    read: list[str] = []
    monkeypatch.setattr(ledger, "read", read.append)
    watch.poll()
    assert read == ["register/000007"]
