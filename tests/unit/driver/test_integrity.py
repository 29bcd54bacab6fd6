"""Damage is found where it is, marked as to be rewritten, and blamed only for failures that it can cause."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ssem_dask.driver.integrity import mark_damaged, verify, verify_task
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.task import Cause, Outcome, Result, Task, TaskReport
from tests.support.toy_pipeline import Generation, Input, Pipeline, ToyJob, ToyTask, World, cells_of

# Three tasks of three sections each; those of the second stage read one section more on either side.
FIRST = Generation("first", 0, depth=3, columns=False, inputs=(Input(-1, halo=0, slack=0),))
SECOND = Generation("second", 1, depth=3, columns=False, inputs=(Input(0, halo=1, slack=0),))


@pytest.fixture
def toy(tmp_path: Path) -> ToyJob:
    """A run in which every task has ended well."""
    toy = ToyJob(Pipeline((FIRST, SECOND), {"first": 0, "second": 0}), World(), str(tmp_path))
    for task in toy.tasks():
        task.run()
        put(toy, task.key, Outcome.OK)
    return toy


def put(toy: ToyJob, key: str, outcome: Outcome, *, cause: Cause | None = None, digest: str = "") -> TaskReport:
    report = TaskReport(key=key, digest=digest or toy.digests[key.split("/")[0]], outcome=outcome, cause=cause)
    open_ledger(toy.output).replace_all([report])
    return report


def damage(toy: ToyJob, key: str) -> None:
    toy.world.damaged |= set(cells_of(task_of(toy, key).target))


def task_of(toy: ToyJob, key: str) -> ToyTask:
    return next(task for task in toy.tasks() if task.key == key)


def verified(toy: ToyJob) -> list[TaskReport]:
    return list(verify(toy.as_job(), stages=toy.stages, executor=SerialExecutor()))


def blamed(toy: ToyJob, failed: list[TaskReport]) -> list[str]:
    found = mark_damaged(failed, toy.as_job(), stages=toy.stages, executor=SerialExecutor())
    return [report.key for report in found]


def test_a_sound_run_stays_as_it_is(toy: ToyJob) -> None:
    before = list(open_ledger(toy.output).reports(None))
    assert verified(toy) == before
    assert list(open_ledger(toy.output).reports(None)) == before


def test_damaged_results_are_marked_and_no_others(toy: ToyJob) -> None:
    damage(toy, "first/g0-00003")
    reports = {report.key: report for report in verified(toy)}
    assert [key for key, report in reports.items() if report.restore] == ["first/g0-00003"]
    marked = open_ledger(toy.output).read("first/g0-00003")
    assert marked == reports["first/g0-00003"]
    assert marked is not None
    assert (marked.outcome, marked.cause) == (Outcome.FAILED, Cause.IO)
    assert "the checksum is wrong" in marked.message


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.STALE])
def test_what_runs_again_anyway_is_not_read(toy: ToyJob, outcome: Outcome) -> None:
    put(toy, "first/g0-00000", outcome)
    put(toy, "first/g0-00006", Outcome.OK, digest="of another configuration")
    for key in ("first/g0-00000", "first/g0-00006"):
        damage(toy, key)
    assert {"first/g0-00000", "first/g0-00006"}.isdisjoint(report.key for report in verified(toy))


def test_damage_that_a_failed_task_read_is_found(toy: ToyJob) -> None:
    damage(toy, "first/g0-00000")
    damage(toy, "first/g0-00006")
    failed = put(toy, "second/g1-00000", Outcome.FAILED, cause=Cause.BAD_INPUT)
    assert blamed(toy, [failed]) == ["first/g0-00000"]  # the other one is not read by it
    other = open_ledger(toy.output).read("first/g0-00006")
    assert other is not None
    assert other.outcome is Outcome.OK


def test_what_ended_without_the_result_of_a_failed_task_runs_again_with_it(tmp_path: Path) -> None:
    """The last stage has ended although a task of the second one failed, which `--allow-missing` permits."""
    third = Generation("third", 2, depth=3, columns=False, inputs=(Input(1, halo=0, slack=0),))
    toy = ToyJob(
        Pipeline((FIRST, SECOND, third), dict.fromkeys(("first", "second", "third"), 0)), World(), str(tmp_path)
    )
    for task in toy.tasks():
        task.run()
        put(toy, task.key, Outcome.OK)
    damage(toy, "first/g0-00000")
    failed = put(toy, "second/g1-00000", Outcome.FAILED, cause=Cause.BAD_INPUT)
    assert blamed(toy, [failed]) == ["first/g0-00000"]
    stale = [report.key for report in open_ledger(toy.output).reports(None) if report.outcome is Outcome.STALE]
    assert stale == ["third/g2-00000"]


def test_failures_without_damage_have_another_reason(toy: ToyJob) -> None:
    failed = put(toy, "second/g1-00003", Outcome.FAILED, cause=Cause.IO)
    damage(toy, "second/g1-00000")  # which the failed task does not read
    assert blamed(toy, [failed]) == []
    assert blamed(toy, []) == []


@pytest.mark.parametrize("cause", [Cause.OUT_OF_MEMORY, Cause.GPU_OUT_OF_MEMORY, Cause.WORKER_LOST, Cause.TIMEOUT])
def test_causes_that_damage_cannot_have_start_no_search(toy: ToyJob, cause: Cause) -> None:
    damage(toy, "first/g0-00000")
    assert blamed(toy, [put(toy, "second/g1-00000", Outcome.FAILED, cause=cause)]) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTask(Task):
    """A task that wrote one file."""

    def run(self) -> Result:
        return Result()

    def footprint(self) -> Footprint:
        return Footprint(reads=(), writes=(Region("file", Box((0, 0, 0), (1, 1, 1))),))

    def files(self) -> dict[str, int]:
        path = Path(self.output) / "file"
        return {"file": path.stat().st_size} if path.exists() else {}

    def damage(self, files: dict[str, int]) -> str:
        return "" if self.files() == files else "file: has other bytes."


def test_a_damaged_file_is_deleted_so_that_it_can_be_written_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"whole")
    task = FileTask(key="first/0", output=str(tmp_path), digest="d", pixels=1)
    whole = TaskReport(key=task.key, digest="d", outcome=Outcome.OK, files={"file": 5})
    open_ledger(task.output).write(whole)
    assert verify_task(task) == whole
    (tmp_path / "file").write_bytes(b"torn")
    assert verify_task(task) == replace(
        whole, outcome=Outcome.FAILED, cause=Cause.IO, message="file: has other bytes.", restore=True
    )
    assert not (tmp_path / "file").exists()
    assert verify_task(task).restore  # marked already: nothing is read


def test_a_task_without_an_entry_is_stale(tmp_path: Path) -> None:
    task = FileTask(key="first/0", output=str(tmp_path), digest="d", pixels=1)
    assert verify_task(task).outcome is Outcome.STALE
