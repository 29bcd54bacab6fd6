"""Every row of the table by which `find_stale` decides how a task is affected, and the order of what it writes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from ssem_dask.driver.invalidation import Classification, EntryUpdate, classify, find_stale, mark_stale
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Cause, Outcome, Task, TaskReport
from tests.support.function_tasks import FunctionTask

KEY, DIGEST = "render/z000000", "now"
TASK = FunctionTask(key=KEY, output="run.zarr", digest=DIGEST, pixels=1)
EARLIER, OVERRIDES = {"register.halo": 8}, {"register.window": 64}


def entry(outcome: Outcome, *, digest: str = DIGEST, restore: bool = False) -> TaskReport:
    cause = Cause.IO if outcome is Outcome.FAILED else None
    return TaskReport(key=KEY, digest=digest, outcome=outcome, cause=cause, restore=restore, changes=EARLIER)


DONE = entry(Outcome.LOW_QUALITY)
OUTDATED = entry(Outcome.OK, digest="then")
FAILED = entry(Outcome.FAILED)
DAMAGED = entry(Outcome.FAILED, restore=True)
STALE = entry(Outcome.STALE)
FAILED_BEFORE = entry(Outcome.FAILED, digest="then")
DAMAGED_BEFORE = entry(Outcome.FAILED, digest="then", restore=True)


def classified(
    task_entry: TaskReport | None,
    *,
    chosen: bool | None = None,
    reads_redone: bool = False,
    source_changed: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Classification:
    return classify(
        TASK,
        task_entry,
        source_changed=source_changed,
        chosen=chosen,
        reads_redone=reads_redone,
        overrides=overrides or {},
    )


@dataclass(frozen=True)
class Row:
    """One row of the table in `classify`."""

    entry: TaskReport | None
    chosen: tuple[bool | None, ...]
    reads_redone: tuple[bool, ...]
    redone: bool | None
    """None: as `reads_redone` is."""
    update: EntryUpdate | None = None
    reason: str = ""
    overridden: bool = False


ANY, NOT_CHOSEN, EITHER = (None, True, False), (None, False), (True, False)
BOTH = {**EARLIER, **OVERRIDES}
ROWS = {
    "absent": Row(None, ANY, EITHER, True),
    "absent, overridden": Row(
        None, (True,), EITHER, True, EntryUpdate(KEY, Outcome.STALE, DIGEST, OVERRIDES), "", True
    ),
    "done, chosen": Row(DONE, (True,), EITHER, True, EntryUpdate(KEY, Outcome.STALE, DIGEST, EARLIER)),
    "done, overridden": Row(DONE, (True,), EITHER, True, EntryUpdate(KEY, Outcome.STALE, DIGEST, BOTH), "", True),
    "done, reads redone": Row(DONE, NOT_CHOSEN, (True,), True, EntryUpdate(KEY, Outcome.STALE), "dependent"),
    "done": Row(DONE, NOT_CHOSEN, (False,), False),
    "outdated": Row(OUTDATED, ANY, EITHER, True, EntryUpdate(KEY, Outcome.STALE, changes={}), "changed"),
    "outdated, overridden": Row(
        OUTDATED, (True,), EITHER, True, EntryUpdate(KEY, Outcome.STALE, DIGEST, OVERRIDES), "", True
    ),
    "failed, chosen": Row(FAILED, (None, True), EITHER, True),
    "failed, overridden": Row(FAILED, (True,), EITHER, True, EntryUpdate(KEY, Outcome.FAILED, DIGEST, BOTH), "", True),
    "failed, not chosen": Row(FAILED, (False,), EITHER, None),
    "damaged, overridden": Row(
        DAMAGED, (True,), EITHER, True, EntryUpdate(KEY, Outcome.FAILED, DIGEST, BOTH), "", True
    ),
    "damaged, reads redone": Row(DAMAGED, ANY, (True,), True, EntryUpdate(KEY, Outcome.STALE, restore=False)),
    "damaged": Row(DAMAGED, ANY, (False,), False),
    "stale": Row(STALE, ANY, EITHER, True),
    "stale, overridden": Row(STALE, (True,), EITHER, True, EntryUpdate(KEY, Outcome.STALE, DIGEST, BOTH), "", True),
    "failed before": Row(FAILED_BEFORE, ANY, EITHER, True),
    "failed before, overridden": Row(
        FAILED_BEFORE, (True,), EITHER, True, EntryUpdate(KEY, Outcome.FAILED, DIGEST, OVERRIDES), "", True
    ),
    "damaged before, reads redone": Row(
        DAMAGED_BEFORE, ANY, (True,), True, EntryUpdate(KEY, Outcome.STALE, restore=False)
    ),
    "damaged before": Row(DAMAGED_BEFORE, ANY, (False,), True),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table(name: str) -> None:
    row = ROWS[name]
    for chosen in row.chosen:
        for reads_redone in row.reads_redone:
            found = classified(
                row.entry,
                chosen=chosen,
                reads_redone=reads_redone,
                overrides=OVERRIDES if row.overridden else None,
            )
            assert found == Classification(
                chosen=bool(chosen),
                changed=row.reason == "changed",
                dependent=row.reason == "dependent",
                redone=reads_redone if row.redone is None else row.redone,
                update=row.update,
            )


@pytest.mark.parametrize("chosen", [None, False])
def test_overrides_hold_for_chosen_tasks_alone(chosen: bool | None) -> None:
    for task_entry in (None, DONE, OUTDATED, FAILED, DAMAGED, STALE, FAILED_BEFORE):
        assert classified(task_entry, chosen=chosen, overrides=OVERRIDES) == classified(task_entry, chosen=chosen)


def test_a_changed_source_makes_an_entry_outdated() -> None:
    assert classified(DONE, source_changed=True) == classified(OUTDATED)
    assert classified(FAILED, source_changed=True) == classified(FAILED_BEFORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTask(FunctionTask):
    """Task z of a stage reads sections z and z + 1 of the stage before it."""

    reads: str

    def footprint(self) -> Footprint:
        z = int(self.key[-6:])
        return Footprint(reads=(sections(self.reads, z, z + 2),), writes=(sections(self.stage, z, z + 1),))


class Line:
    """A stage of `count` tasks."""

    def __init__(self, name: str, *, reads: str, count: int) -> None:
        self.name, self._reads, self._count = name, reads, count

    def generations(self, _job: Job) -> Iterator[Iterable[Task]]:
        yield [
            LineTask(key=f"{self.name}/z{z:06}", output="run.zarr", digest=DIGEST, pixels=1, reads=self._reads)
            for z in range(self._count)
        ]


def sections(name: str, start: int, stop: int) -> Region:
    return Region(name, Box((start, 0, 0), (stop, 8, 8)))


FIRST, SECOND, THIRD = "first", "second", "third"
STAGES = [Line(FIRST, reads="source", count=6), Line(SECOND, reads=FIRST, count=6), Line(THIRD, reads=SECOND, count=6)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The ledger of a finished run."""
    ledger = Ledger(str(tmp_path / "ledger"))
    for stage in STAGES:
        for z in range(6):
            ledger.write(replace(DONE, key=f"{stage.name}/z{z:06}", changes={}))
    return ledger


def find(ledger: Ledger, **options: Any) -> Any:
    return find_stale(cast(Job, None), stages=cast(list[Stage], STAGES), ledger=ledger, **options)


def test_a_finished_run_stays_as_it_is(ledger: Ledger) -> None:
    assert not any(find(ledger).keys().values())


def test_what_depends_on_a_changed_section_is_found_through_all_stages(ledger: Ledger) -> None:
    invalidation = find(ledger, changed_source=[sections("source", 5, 6)])
    assert invalidation.changed == ["first/z000004", "first/z000005"]
    assert invalidation.dependent == [
        *(f"second/z{z:06}" for z in (3, 4, 5)),
        *(f"third/z{z:06}" for z in (2, 3, 4, 5)),
    ]


def test_overrides_hold_for_tasks_that_have_never_run(tmp_path: Path) -> None:
    """Also in stages of which no task has ended."""
    ledger = Ledger(str(tmp_path / "ledger"))
    ledger.write(replace(DONE, key="first/z000000", changes={}))
    chosen = ("second/z000003", "third/z000005")
    invalidation = find(ledger, selection=lambda task, entry, footprint: task.key in chosen, overrides=OVERRIDES)
    assert tuple(invalidation.chosen) == chosen
    mark_stale(invalidation, ledger)
    for key in chosen:
        entry = ledger.read(key)
        assert entry is not None
        assert (entry.outcome, entry.digest, entry.changes) == (Outcome.STALE, DIGEST, OVERRIDES)


def test_entries_of_the_last_stages_become_stale_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Ledger.write

    def recorded(self: Ledger, report: TaskReport) -> None:
        written.append(report.key)
        write(self, report)

    monkeypatch.setattr(Ledger, "write", recorded)
    mark_stale(find(ledger, changed_source=[sections("source", 0, 1)]), ledger)
    assert [key.split("/")[0] for key in written] == [THIRD, SECOND, FIRST]
    assert {report.key for report in ledger.reports(None) if report.outcome is Outcome.STALE} == set(written)


def test_entries_without_a_task_are_deleted(ledger: Ledger) -> None:
    ledger.write(replace(DONE, key="second/z000006"))
    invalidation = find(ledger)
    assert invalidation.obsolete == ["second/z000006"]
    mark_stale(invalidation, ledger)
    assert ledger.read("second/z000006") is None
