"""Pages are written when all of their tasks have ended, whatever the order, and only then."""

from pathlib import Path

import pytest

from ssem_dask.runtime.pages import PageWriter
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Outcome, TaskReport


def report(z: int, x: int) -> TaskReport:
    return TaskReport(key=f"render/z{z}-y0-x{x}", digest="d", outcome=Outcome.OK)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path))


def test_a_page_is_written_when_its_last_task_has_ended(ledger: Ledger) -> None:
    writer = PageWriter(ledger)
    writer.begin_page("render/z0", [report(0, 0)])
    for _ in range(2):
        writer.task_submitted("render/z0")
    writer.task_ended(report(0, 2))
    writer.end_page("render/z0")
    writer.begin_page("render/z1", [])
    writer.task_submitted("render/z1")
    writer.task_ended(report(1, 0))
    assert ledger.complete_page("render/z0") is None
    assert ledger.complete_page("render/z1") is None  # more of its tasks may come
    writer.task_ended(report(0, 1))
    writer.end_page("render/z1")
    assert ledger.complete_page("render/z0") == [report(0, 0), report(0, 2), report(0, 1)]
    assert ledger.complete_page("render/z1") == [report(1, 0)]


def test_a_page_of_entries_that_all_stay_is_written_at_once(ledger: Ledger) -> None:
    writer = PageWriter(ledger)
    writer.begin_page("render/z0", [report(0, 0)])
    writer.end_page("render/z0")
    assert ledger.complete_page("render/z0") == [report(0, 0)]


def test_where_too_many_are_open_the_oldest_is_given_up(ledger: Ledger) -> None:
    writer = PageWriter(ledger, max_held=3)
    for z in range(4):
        writer.begin_page(f"render/z{z}", [])
        for _ in range(2):
            writer.task_submitted(f"render/z{z}")
        writer.end_page(f"render/z{z}")
        writer.task_ended(report(z, 0))
    for z in range(4):
        writer.task_ended(report(z, 1))
    assert [ledger.complete_page(f"render/z{z}") is not None for z in range(4)] == [False, True, True, True]
