"""Every executor keeps the same contract: each task comes back once, failures are reports, tasks are taken lazily."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Future

from ssem_dask.errors import ConfigError
from ssem_dask.runtime import distributed
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.distributed import DaskExecutor, silenced_loggers
from ssem_dask.runtime.execute import cause_of, execute
from ssem_dask.runtime.executor import Executor, SerialExecutor
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport
from tests.support.function_tasks import FunctionTask, running

pytestmark = pytest.mark.slow


def make_tasks(output: Path, count: int) -> list[FunctionTask]:
    return [FunctionTask(key=f"count/{i:03d}", output=str(output), digest="d", pixels=i) for i in range(count)]


def count_or_fail(task: Task) -> Result:
    number = int(task.key.split("/")[1])
    if number == 3:
        raise ValueError("three is not wanted")
    if number == 4:
        return Result(outcome=Outcome.NO_TISSUE, message="four is empty")
    return Result(bytes_written=number)


def die_on_five(task: Task) -> Result:
    if task.key.endswith("005"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Result()


@pytest.fixture(scope="module")
def dask_executor() -> Iterator[DaskExecutor]:
    with open_cluster("local", workers=2) as executor:
        assert isinstance(executor, DaskExecutor)
        yield executor


@pytest.fixture(params=["serial", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return SerialExecutor() if request.param == "serial" else request.getfixturevalue("dask_executor")


def test_a_task_comes_back_though_nobody_calls_back(
    dask_executor: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may know that a task has ended, and not call back."""
    monkeypatch.setattr(Future, "add_done_callback", lambda future, call: None)
    reports = list(dask_executor.map(execute, running(count_or_fail, make_tasks(tmp_path, 6))))
    assert sorted(r.key for r in reports) == [t.key for t in make_tasks(tmp_path, 6)]


def test_a_task_comes_back_though_the_message_of_its_end_is_lost(
    dask_executor: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_ASK_S", 0.5)
    handlers = dask_executor.client._stream_handlers
    handle, dropped = handlers["key-in-memory"], set[str]()

    def drop_the_first(key: str, **more: Any) -> None:
        if key in dropped:
            handle(key=key, **more)
        dropped.add(key)

    monkeypatch.setitem(handlers, "key-in-memory", drop_the_first)
    reports = list(dask_executor.map(execute, running(count_or_fail, make_tasks(tmp_path, 6))))
    assert sorted(r.key for r in reports) == [t.key for t in make_tasks(tmp_path, 6)]
    assert len(dropped) == 6


def test_every_task_comes_back_once_with_its_outcome(executor: Executor, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path, 12)
    reports = {r.key: r for r in executor.map(execute, running(count_or_fail, tasks))}
    assert sorted(reports) == [t.key for t in tasks]
    assert reports["count/003"].outcome is Outcome.FAILED
    assert reports["count/003"].cause is Cause.BUG
    assert "three is not wanted" in reports["count/003"].message
    assert "count_or_fail" in reports["count/003"].log
    assert reports["count/004"].outcome is Outcome.NO_TISSUE
    assert reports["count/007"].bytes_written == 7


def test_the_ledger_holds_what_was_reported(executor: Executor, tmp_path: Path) -> None:
    reports = {r.key: r for r in executor.map(execute, running(count_or_fail, make_tasks(tmp_path, 6)))}
    assert {r.key: r for r in open_ledger(str(tmp_path)).reports("count")} == reports


def test_tasks_are_taken_lazily(executor: Executor, tmp_path: Path) -> None:
    taken = 0

    def stream() -> Iterator[FunctionTask]:
        nonlocal taken
        for task in make_tasks(tmp_path, 100):
            taken += 1
            yield task

    reports = executor.map(execute, running(count_or_fail, stream()))
    next(reports)
    assert taken < 20
    assert len(list(reports)) == 99


def test_a_task_that_kills_its_workers_is_reported_and_the_others_end(tmp_path: Path) -> None:
    with open_cluster("local", workers=2) as executor:
        reports: dict[str, TaskReport] = {
            r.key: r for r in executor.map(execute, running(die_on_five, make_tasks(tmp_path, 8)))
        }
    lost = reports.pop("count/005")
    assert lost.cause is Cause.WORKER_LOST
    assert "SIGKILL" in lost.message
    assert len(reports) == 7
    assert all(r.outcome is Outcome.OK for r in reports.values())
    assert open_ledger(str(tmp_path)).read("count/005") is not None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), Cause.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"), Cause.OUT_OF_MEMORY),
        (ConfigError("x"), Cause.BAD_INPUT),
        (OSError(28, "No space left on device"), Cause.IO),
        (KeyError("x"), Cause.BUG),
    ],
)
def test_causes(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


@pytest.mark.parametrize("name", ["cloud9", "tcp://127.0.0.1:9"])
def test_an_unknown_cluster_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssem_dask.runtime.clusters.scheduler_address.CONNECT_SECONDS", 2)
    with pytest.raises(ConfigError, match="--cluster"):
        open_cluster(name, workers=None)


def hang_once_or_always(task: Task) -> Result:
    """Task 2 hangs the first time, task 4 always."""
    number, mark = int(task.key.split("/")[1]), Path(task.output) / f"{task.key.replace('/', '-')}.seen"
    if number == 4 or (number == 2 and not mark.exists()):
        mark.touch()
        time.sleep(1000)
    return Result()


def test_a_task_that_hangs_is_given_out_again_after_its_deadline(tmp_path: Path) -> None:
    with open_cluster("local", workers=2, settings=ClusterConfig(deadline=8)) as executor:
        reports = {r.key: r for r in executor.map(execute, running(hang_once_or_always, make_tasks(tmp_path, 8)))}
    hung = reports.pop("count/004")
    assert (hung.outcome, hung.cause, hung.attempts) == (Outcome.FAILED, Cause.TIMEOUT, 2)
    assert hung.worker.startswith("tls://")
    assert hung.seconds >= 8
    assert "did not end within 8 s" in hung.message
    assert len(reports) == 7
    assert all(r.outcome is Outcome.OK for r in reports.values())
    assert reports["count/002"].attempts == 2
    assert open_ledger(str(tmp_path)).read("count/004") == hung


def test_a_cluster_that_goes_is_not_heard_and_later_ones_are(caplog: pytest.LogCaptureFixture) -> None:
    """Heartbeats that meet a closed connection end in tracebacks, which a user would take for an error."""
    with silenced_loggers():
        for name in ("tornado.application", "distributed.core"):
            logging.getLogger(name).error("Exception in callback of %s", name)
    assert not caplog.text
    logging.getLogger("tornado.application").error("of another cluster")
    assert "of another cluster" in caplog.text
