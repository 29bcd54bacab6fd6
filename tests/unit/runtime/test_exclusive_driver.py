"""A driver that was replaced, and the tasks that it had handed out, write nothing; what arrives late is noted."""

import asyncio
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.storage import LocalStore

from ssem_dask.driver.run_status import run_status
from ssem_dask.errors import LeaseLostError, OutputError
from ssem_dask.runtime.exclusive_driver import FencedWork, exclusive_driver, lease_url
from ssem_dask.runtime.execute import execute
from ssem_dask.runtime.executor import SerialExecutor, Work
from ssem_dask.storage import arrays, local_files, location
from ssem_dask.storage.fence import confirm_fence, fenced
from ssem_dask.storage.holder import LIVE_NAMES
from ssem_dask.storage.late_writes import mark_overwritten, read_notes
from ssem_dask.storage.lease import hold_lease
from ssem_dask.storage.ledger import encode, open_ledger
from ssem_dask.storage.run_group import create_run, update_run
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport
from tests.support.function_tasks import FunctionTask

SHAPE: dict[str, Any] = {"shape": (4, 4), "dtype": "uint8", "axes": ("y", "x"), "chunks": (2, 2), "shards": (2, 4)}


def write_shard(task: Task, value: int) -> Result:
    """Write the first shard."""
    arrays.open_array(location.join(task.output, "a"), mode="r+")[:2] = value
    return Result()


@pytest.fixture
def run(tmp_path: Path) -> str:
    """An empty run with one array."""
    output = str(tmp_path / "out.zarr")
    create_run(output, attributes={"state": "running", "stages": ["toy"]})
    arrays.create_array(location.join(output, "a"), **SHAPE, fill_value=0, attributes={})
    return output


def pixels(output: str) -> set[int]:
    return set(np.unique(np.asarray(arrays.open_array(location.join(output, "a"), mode="r")[:2])).tolist())


def task(output: str, work: Callable[[Task], Result]) -> FunctionTask:
    return FunctionTask(key="toy/x-1", output=output, digest="d", pixels=1, work=work)


def take_over(output: str) -> None:
    """Be another driver, from beginning to end, which takes the present one for dead: it writes 2."""
    LIVE_NAMES.clear()
    with exclusive_driver(output, SerialExecutor()) as guarded, fenced(None):
        (report,) = guarded.map(execute, [task(output, lambda t: write_shard(t, 2))])
        assert report.outcome is Outcome.OK
        ledger = open_ledger(output)
        ledger.write_page("toy/x", [encode(report)])
        update_run(output, state="complete")


def reports(output: str, work: Callable[[Task], Result]) -> list[TaskReport]:
    """Return what the worker of the first driver reports of a task, whether or not its driver lives."""
    with hold_lease(lease_url(output), output=output) as lease:
        return [FencedWork(execute, lease.claim)(task(output, work))]


def test_a_task_of_a_driver_that_was_replaced_writes_nothing(run: str) -> None:
    def work(t: Task) -> Result:
        take_over(t.output)
        with pytest.raises(LeaseLostError):
            location.delete(location.join(t.output, "a"), recursive=True)
        return write_shard(t, 1)

    (report,) = reports(run, work)
    assert report.outcome is Outcome.FAILED
    assert report.cause is Cause.SUPERSEDED
    assert pixels(run) == {2}
    assert run_status(run).state == "complete"
    entry = open_ledger(run).read("toy/x-1")
    assert entry is not None
    assert entry.outcome is Outcome.OK


def test_a_task_that_was_replaced_before_its_start_does_not_run(run: str) -> None:
    with hold_lease(lease_url(run), output=run) as lease:
        take_over(run)
        report = FencedWork(execute, lease.claim)(task(run, lambda t: write_shard(t, 1)))
    assert report.cause is Cause.SUPERSEDED
    assert pixels(run) == {2}
    assert read_notes(open_ledger(run)) == []


def test_a_task_that_fails_after_its_driver_was_replaced_leaves_no_entry(run: str) -> None:
    def work(t: Task) -> Result:
        take_over(t.output)
        raise MemoryError

    (report,) = reports(run, work)
    assert report.cause is Cause.SUPERSEDED
    assert run_status(run).counts == {"toy": {"ok": 1}}


@pytest.mark.parametrize("put", ["array", "file", "entry"])
def test_a_write_that_arrives_late_is_noted_and_the_task_is_to_be_recomputed(
    run: str, put: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write was begun before the takeover, and arrives after the newer driver has ended."""
    taken: list[Path] = []

    def taking_over(path: Path) -> bool:
        """Return whether this write hangs: the first one of the kind."""
        hangs = {"array": path.match("a/c/0/0"), "file": path.name == "b.json", "entry": path.name == "x-1.json"}[put]
        if hangs and not taken:
            taken.append(path)
            take_over(run)
        return hangs

    store_put, write_file = LocalStore.set, local_files.write_file

    async def late_put(store: LocalStore, key: str, value: Any) -> None:
        await asyncio.to_thread(taking_over, store.root / key)
        await store_put(store, key, value)

    def late_write(path: Path, content: bytes) -> None:
        taking_over(path)
        write_file(path, content)

    monkeypatch.setattr(LocalStore, "set", late_put)
    monkeypatch.setattr(local_files, "write_file", late_write)

    def work(t: Task) -> Result:
        if put == "file":
            location.write_bytes(location.join(t.output, "b.json"), b"1")
        return write_shard(t, 1)

    (report,) = reports(run, work)
    assert taken
    assert report.cause is Cause.SUPERSEDED
    status = run_status(run)
    assert status.state == "incomplete"
    assert [(failed.key, failed.cause) for failed in status.failed] == [("toy/x-1", Cause.SUPERSEDED)]
    ledger = open_ledger(run)
    assert mark_overwritten(ledger) == {"toy/x-1"}
    assert ledger.complete_page("toy/x") is None
    entry = ledger.read("toy/x-1")
    assert entry is not None
    assert not entry.outcome.is_done
    assert read_notes(ledger) == []


def test_a_driver_that_was_replaced_changes_nothing(run: str) -> None:
    with exclusive_driver(run, SerialExecutor()):
        take_over(run)
        array = location.join(run, "a")
        for change in (
            lambda: location.delete(array, recursive=True),
            lambda: arrays.create_array(location.join(run, "b"), **SHAPE, fill_value=0, attributes={}),
            lambda: update_run(run, state="incomplete"),
            confirm_fence,
            lambda: open_ledger(run).forget_page("toy/x"),  # from here on it knows, without asking the store
            lambda: write_shard(task(run, lambda t: write_shard(t, 1)), 1),
        ):
            with pytest.raises(LeaseLostError, match="has taken it over"):
                change()
    assert pixels(run) == {2}
    assert run_status(run).state == "complete"
    assert not location.exists(location.join(run, "b"))
    assert open_ledger(run).complete_page("toy/x") is not None


def test_a_driver_that_was_replaced_hands_out_nothing_more(run: str) -> None:
    started = []

    def work(t: Task) -> Result:
        started.append(t.key)
        take_over(t.output)
        return Result()

    with (
        pytest.raises(LeaseLostError, match="has taken it over"),
        exclusive_driver(run, SerialExecutor()) as guarded,
    ):
        list(guarded.map(execute, [replace(task(run, work), key=f"toy/y-{i}") for i in range(3)]))
    assert started == ["toy/y-0"]


def test_an_output_that_is_removed_is_not_made_again(run: str) -> None:
    def work(t: Task) -> Result:
        shutil.rmtree(t.output)
        return write_shard(t, 1)

    with (
        pytest.raises(OutputError, match="the output was removed while it was written"),
        exclusive_driver(run, SerialExecutor()) as guarded,
    ):
        list(guarded.map(execute, [task(run, work)]))
    assert not Path(run).exists()


def test_a_removal_that_was_suspended_restores_what_it_should_not_touch(run: str) -> None:
    """The driver falls asleep between its question and the removal; when it wakes up, another's array is there."""
    array = Path(run) / "a"

    class AsleepAfterTheFirstQuestion:
        questions = 0

        def check(self) -> None: ...

        def confirm(self) -> None:
            self.questions += 1
            if self.questions > 2:
                raise LeaseLostError("lost")

    with fenced(AsleepAfterTheFirstQuestion()), pytest.raises(LeaseLostError):
        location.delete(str(array), recursive=True)
    assert pixels(run) == {0}
    assert [path.name for path in Path(run).iterdir() if "removed" in path.name] == []


def test_the_fence_travels_with_the_work_and_is_small(run: str) -> None:
    with hold_lease(lease_url(run), output=run) as lease:
        work = pickle.loads(pickle.dumps(FencedWork(execute, lease.claim)))
        assert work.claim == lease.claim
    assert len(pickle.dumps(work)) < 600


def test_a_worker_that_sees_another_state_of_the_store_than_its_driver_fails_its_task(run: str) -> None:
    with exclusive_driver(run, Confusing()) as guarded:
        assert len(list(guarded.map(execute, [task(run, lambda t: write_shard(t, 1))]))) == 1
    entry = open_ledger(run).read("toy/x-1")
    assert entry is not None
    assert entry.cause is Cause.SUPERSEDED
    assert pixels(run) == {0}


class Confusing(SerialExecutor):
    """An executor whose workers see another claim than the driver, as with a stale cache of a folder."""

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        assert isinstance(work, FencedWork)
        return super().map(replace(work, claim=replace(work.claim, name="another")), tasks)
