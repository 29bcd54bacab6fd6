"""Which tasks of a stage are pending, with which attempt, and when a stage stops."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork, run_generations
from ssem_dask.geometry.region import Footprint
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.ledger import Ledger, open_ledger, page_of
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport

ESTIMATE = Estimate(tasks=6, pixels=6, bytes_read=0, bytes_written=0, files=0, memory=0)
FIRST, SECOND = ["stage/a-0", "stage/a-1", "stage/a-2"], ["stage/b-0", "stage/b-1", "stage/b-2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Task):
    """A task that records when it runs, and fails if its stage says so."""

    began: Callable[[Task], None] = field(repr=False, compare=False)

    def run(self) -> Result:
        self.began(self)
        return Result()

    def footprint(self) -> Footprint:
        return Footprint(reads=(), writes=())


@dataclass
class Stage:
    """A stage of two generations of one page each, in a run of its own."""

    output: str
    ran: list[Task] = field(default_factory=list)
    failing: frozenset[str] = frozenset()
    watch: Callable[[Task], None] = lambda task: None

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.output)

    def _began(self, task: Task) -> None:
        self.ran.append(task)
        self.watch(task)
        if task.key in self.failing:
            raise OSError("the disk is full")

    def run(self, **options: Any) -> Summary:
        self.ran.clear()
        generations = [
            [Recorded(key=key, output=self.output, digest="now", pixels=1, began=self._began) for key in keys]
            for keys in (FIRST, SECOND)
        ]
        summary = Summary(output=self.output, state="complete")
        stage = StageWork(name="stage", generations=generations, estimate=ESTIMATE, digests=("now",))
        run_generations(stage, summary=summary, executor=SerialExecutor(), observer=SilentObserver(), **options)
        return summary

    @property
    def keys(self) -> list[str]:
        return [task.key for task in self.ran]

    def entry(self, key: str) -> TaskReport:
        entry = self.ledger.read(key)
        assert entry is not None
        return entry

    def put(self, key: str, **changed: Any) -> None:
        self.ledger.replace_all([replace(self.entry(key), **changed)])


def test_what_is_done_is_not_done_again_and_is_counted(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path))
    assert stage.run().counts == {"stage": {"ok": 6}}
    assert stage.keys == FIRST + SECOND
    assert stage.run().counts == {"stage": {"ok": 6}}
    assert stage.keys == []


def test_stale_torn_and_outdated_entries_are_pending(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path))
    stage.run()
    stage.put(FIRST[0], outcome=Outcome.STALE)
    stage.put(FIRST[2], digest="then")
    stage.ledger.forget_page(page_of(SECOND[1]))
    Path(stage.ledger.entry_url(SECOND[1])).write_bytes(b"{")
    stage.run()
    assert stage.keys == [FIRST[0], FIRST[2], SECOND[1]]


def test_a_stage_stops_after_a_generation_with_a_failure(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), failing=frozenset([FIRST[1]]))
    summary = stage.run()
    assert stage.keys == FIRST
    assert summary.state == "incomplete"
    assert [(report.key, report.cause) for report in summary.failed] == [(FIRST[1], Cause.IO)]
    assert stage.run(allow_missing=True).state == "incomplete"
    assert stage.keys == [FIRST[1], *SECOND]


def test_failed_tasks_run_again_unless_others_were_chosen(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), failing=frozenset(FIRST))
    stage.run()
    stage.failing = frozenset()
    summary = stage.run(allowed_failures=frozenset([FIRST[1]]))
    assert stage.keys == [FIRST[1]]
    assert {report.key for report in summary.failed} == {FIRST[0], FIRST[2]}
    stage.run()
    assert stage.keys == [FIRST[0], FIRST[2], *SECOND]


def test_attempts_are_counted_and_overrides_are_kept(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path), failing=frozenset([FIRST[1]]))
    stage.run()
    stage.put(FIRST[1], changes={"register.window": 64})
    stage.run()
    (task,) = stage.ran
    assert (task.attempt, task.changes) == (2, (("register.window", 64),))
    assert stage.entry(FIRST[1]).attempts == 2
    stage.put(FIRST[1], restore=True)  # it had ended well once: being rewritten is no further attempt
    stage.run()
    assert [task.attempt for task in stage.ran] == [1]


def test_a_complete_page_is_deleted_before_a_task_of_it_runs(tmp_path: Path) -> None:
    """If the driver is killed before the page is written again, the entries must count."""
    stage = Stage(str(tmp_path), failing=frozenset([FIRST[1]]))
    stage.run()
    page = page_of(FIRST[1])
    assert stage.ledger.complete_page(page) is not None
    pages: list[Any] = []
    stage.watch = lambda task: pages.append(stage.ledger.complete_page(page))
    stage.run()
    assert stage.keys == [FIRST[1]]
    assert pages == [None]
    complete = stage.ledger.complete_page(page)
    assert complete is not None
    assert {report.key: report for report in complete} == stage.ledger.loose_entries(page)
