"""Any history of runs, kills, failures, changes and choices, followed by one complete run, equals a run from scratch.

The code under test is `driver.invalidation`, `driver.tasks` and the ledger; the tasks are toys whose values are digests
of what they read. Two laws hold after every step, also after a kill:

- a valid result is what its task would make of what is stored now;
- a run does the tasks that a naive search over all pairs of footprints finds, and no others.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssem_dask.driver.integrity import mark_damaged, verify
from ssem_dask.driver.invalidation import find_stale, mark_stale
from ssem_dask.driver.rerun import Selection
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork, run_generations
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Region
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.storage import location
from ssem_dask.storage.ledger import Ledger, open_ledger, page_of
from ssem_dask.task import Outcome, Task, TaskReport
from tests.support.toy_pipeline import (
    COLUMNS,
    SECTIONS,
    Killed,
    Pipeline,
    ToyJob,
    ToyTask,
    World,
    cells_of,
    pipelines,
)

pytestmark = pytest.mark.no_cover
FUSES = st.none() | st.integers(0, 8) | st.integers(0, 60)
"""Events until the driver is killed: often early, since a run that resumes has few."""
REPAIR_ROUNDS = 3


class KillableLedger(Ledger):
    """A ledger whose process may be killed before each request that changes it; writes one entry after the other."""

    def __init__(self, url: str, world: World) -> None:
        super().__init__(url)
        self._world = world

    def write(self, report: TaskReport) -> None:
        self._world.event()
        super().write(report)

    def forget_page(self, page: str) -> None:
        self._world.event()
        super().forget_page(page)

    def delete(self, key: str) -> None:
        self._world.event()
        super().delete(key)

    def replace_all(self, reports: Iterable[TaskReport]) -> None:
        for report in reports:
            self.forget_page(page_of(report.key))
            self.write(report)


class KillableExecutor(SerialExecutor):
    """An executor whose process may be killed between a task's entry and what the driver makes of it."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def map(self, work: Callable[[Task], TaskReport], tasks: Iterable[Task]) -> Iterator[TaskReport]:
        for report in super().map(work, tasks):
            self._world.event()
            yield report


class Invalidation(RuleBasedStateMachine):
    """A user, a run that is never spared, and the model of what it should hold."""

    @initialize(pipeline=pipelines())
    def begin(self, pipeline: Pipeline) -> None:
        self.world = World()
        self.output = f"memory://{uuid.uuid4().hex}"
        self.pipeline = pipeline
        self.remembered = list(self.world.source)
        self.finish()

    @property
    def job(self) -> ToyJob:
        return ToyJob(self.pipeline, self.world, self.output)

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.output)

    def entries(self) -> dict[str, TaskReport]:
        return {report.key: report for report in self.ledger.reports(None)}

    def changed_source(self) -> list[Region]:
        return [
            Region("source", Box((z, 0, 0), (z + 1, COLUMNS, 1)))
            for z in range(SECTIONS)
            if self.world.source[z] != self.remembered[z]
        ]

    def resume(
        self,
        *,
        selection: Selection | None = None,
        overrides: dict[str, Any] | None = None,
        allow_missing: bool = False,
    ) -> Summary:
        """Do what `driver.pipeline.resume` does, in its order."""
        job, source = self.job, list(self.world.source)
        invalidation = find_stale(
            job.as_job(),
            stages=job.stages,
            ledger=self.ledger,
            changed_source=self.changed_source() if selection is None else [],
            selection=selection,
            overrides=overrides,
        )
        mark_stale(invalidation, KillableLedger(self.ledger.url, self.world))
        if selection is None:
            self.world.event()
            self.remembered = source
        only = None if selection is None else frozenset(invalidation.chosen)
        for _ in range(REPAIR_ROUNDS):
            summary = self._run_stages(only, allow_missing=allow_missing)
            tried = [report for report in summary.failed if only is None or report.key in only]
            damaged = mark_damaged(tried, job.as_job(), stages=job.stages, executor=KillableExecutor(self.world))
            if not damaged:
                break
            only = None if only is None else only | {report.key for report in damaged}
        return summary

    def _run_stages(self, only: frozenset[str] | None, *, allow_missing: bool) -> Summary:
        job, summary = self.job, Summary(output=self.output, state="complete")
        for stage in job.stages:
            run_generations(
                StageWork(
                    name=stage.name,
                    generations=stage.generations(job.as_job()),
                    estimate=stage.estimate(job.as_job()),
                    digests=(job.digests[stage.name],),
                ),
                summary=summary,
                executor=KillableExecutor(self.world),
                observer=SilentObserver(),
                allow_missing=allow_missing,
                allowed_failures=only,
            )
            if summary.failed and not allow_missing:
                break
        return summary

    def verify(self) -> list[TaskReport]:
        job = self.job
        return list(verify(job.as_job(), stages=job.stages, executor=SerialExecutor()))

    def done_tasks(self) -> list[ToyTask]:
        """Tasks that ended well with the present configuration."""
        entries = {key: entry for key, entry in self.entries().items() if entry.outcome.is_done}
        return [task for task in self.job.tasks() if task.key in entries and entries[task.key].digest == task.digest]

    def unnoticed_damage(self) -> bool:
        return any(not self.world.damaged.isdisjoint(cells_of(task.target)) for task in self.done_tasks())

    def needed(self, selection: Selection | None, overrides: dict[str, Any] | None = None) -> set[str]:
        """Keys of the tasks that have to run, by comparing every task's footprint with every other one's."""
        entries, changed = self.entries(), [] if selection is not None else self.changed_source()
        run: set[str] = set()
        rewritten: list[Region] = []
        for task in self.job.tasks():
            entry, footprint = entries.get(task.key), task.footprint()
            current = entry is not None and entry.digest == task.digest and not meet(footprint.reads, changed)
            wanted = selection is not None and selection(task, entry, footprint)
            dependent = meet(footprint.reads, rewritten)
            failed = current and entry is not None and entry.outcome is Outcome.FAILED
            restored = current and entry is not None and entry.restore
            spared = failed and selection is not None and not wanted and not (restored and dependent)
            if not (current and entry is not None and entry.outcome.is_done) or wanted or dependent:
                if not spared:
                    run.add(task.key)
                if dependent or not (spared or (restored and not (wanted and overrides))):
                    rewritten += footprint.writes
        return run

    # What a user, and the world, may do.

    @rule(fuse=FUSES, failing=st.integers(0, 12), allow_missing=st.booleans())
    def run(self, fuse: int | None, failing: int, allow_missing: bool) -> None:
        """Run, and perhaps be killed; every twelfth task or so may fail."""
        self._attempt(None, None, fuse=fuse, failing=failing, allow_missing=allow_missing)

    @rule(
        selection=st.one_of(
            st.builds(Selection, stages=st.tuples(st.sampled_from(["stage0", "stage1", "stage2"]))),
            st.builds(Selection, failed=st.just(True)),
            st.builds(Selection, sections=st.integers(0, SECTIONS - 1).flatmap(lambda z: st.just(range(z, z + 2)))),
        ),
        value=st.none() | st.integers(0, 3),
        fuse=FUSES,
        failing=st.integers(0, 12),
    )
    def rerun(self, selection: Selection, value: int | None, fuse: int | None, failing: int) -> None:
        """Run chosen tasks again, perhaps with a value that holds for them alone."""
        overrides = {} if value is None else {"value": value}
        self._attempt(selection, overrides, fuse=fuse, failing=failing, allow_missing=False)

    def _attempt(
        self,
        selection: Selection | None,
        overrides: dict[str, Any] | None,
        *,
        fuse: int | None,
        failing: int,
        allow_missing: bool,
    ) -> None:
        needed, surprises = self.needed(selection, overrides), self.unnoticed_damage()
        keys = [task.key for task in self.job.tasks()]
        self.world.failing = frozenset(keys[failing::12]) if failing else frozenset()
        self.world.ran.clear()
        self.world.fuse = fuse
        try:
            summary = self.resume(selection=selection, overrides=overrides, allow_missing=allow_missing)
        except Killed:
            pass
        else:
            assert surprises or set(self.world.ran) <= needed
            assert surprises or summary.failed or set(self.world.ran) == needed
        finally:
            self.world.fuse, self.world.failing = None, frozenset()
        assert surprises or len(self.world.ran) == len(set(self.world.ran))

    @rule(stage=st.integers(0, 3), value=st.integers(0, 2))
    def change_setting(self, stage: int, value: int) -> None:
        names = self.pipeline.names
        self.pipeline = self.pipeline.with_setting(names[stage % len(names)], value)

    @rule(number=st.integers(0, 7), depth=st.sampled_from([2, 3, 4]))
    def change_layout(self, number: int, depth: int) -> None:
        self.pipeline = self.pipeline.with_depth(number % len(self.pipeline.generations), depth)

    @rule(z=st.integers(0, SECTIONS - 1))
    def change_source(self, z: int) -> None:
        """A section is written; its fingerprint never returns, as it has the time of the change."""
        self.world.source[z] = max(self.world.source) + 1

    @rule(which=st.integers(0, 100))
    @precondition(lambda self: self.entries())
    def tear_entry(self, which: int) -> None:
        """An entry is cut short; its page's file is not there, since that is deleted before an entry is written."""
        keys = sorted(self.entries())
        key = keys[which % len(keys)]
        self.ledger.forget_page(page_of(key))
        url = self.ledger.entry_url(key)
        location.write_bytes(url, location.read_bytes(url)[:40])

    @rule(which=st.integers(0, 100), noticed=st.booleans())
    def damage(self, which: int, noticed: bool) -> None:
        """The output of a task is damaged; `verify` may notice it."""
        done = self.done_tasks()
        if done:
            self.world.damaged |= set(cells_of(done[which % len(done)].target))
        if noticed:
            self.verify()
            assert not self.unnoticed_damage()

    # What holds after each of these.

    @invariant()
    def what_stands_is_made_of_what_is_stored(self) -> None:
        entries, changed = self.entries(), self.changed_source()
        whole = replace(self.world, damaged=set())
        for task in self.job.tasks():
            entry = entries.get(task.key)
            if entry is None or entry.digest != task.digest or not entry.outcome.is_done:
                continue
            if meet(task.reads, changed):
                continue  # the next run compares the source with its recorded state
            for cell, value in task.values(whole, changes=sorted(entry.changes.items())).items():
                assert self.world.cells[cell] == value, f"{task.key} is valid, but is not made of what is stored"

    @invariant()
    def a_page_says_what_its_entries_say(self) -> None:
        for page in self.ledger.pages(None):
            reports = self.ledger.complete_page(page)
            if reports is not None:
                assert {report.key: report for report in reports} == self.ledger.loose_entries(page)

    def finish(self) -> None:
        """A run that nothing disturbs leaves what a run from scratch leaves."""
        self.verify()
        needed = self.needed(None)
        self.world.ran.clear()
        summary = self.resume()
        assert summary.state == "complete"
        assert not self.world.damaged
        assert sorted(self.world.ran) == sorted(needed)
        entries, fresh = self.entries(), World(source=list(self.world.source))
        tasks: list[ToyTask] = self.job.tasks()
        for task in tasks:
            fresh.cells |= task.values(fresh, changes=sorted(entries[task.key].changes.items()))
        assert self.world.cells == fresh.cells
        assert set(entries) == {task.key for task in tasks}

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.finish()
            location.delete(self.output, recursive=True)


def meet(some: Iterable[Region], others: list[Region]) -> bool:
    return any(region.overlaps(other) for region in some for other in others)


TestInvalidation = Invalidation.TestCase
TestInvalidation.settings = settings(max_examples=60, stateful_step_count=15)
