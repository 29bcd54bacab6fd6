"""Pages of the ledger, written as their tasks end.

A driver sees every report. When all tasks of a page have ended, it writes their reports again, together, as one file.
The next reader of the ledger reads that file instead of each entry. Losing a page's file costs only time: the
entries are the truth, and a reader that finds no file reads them.
"""

from dataclasses import dataclass, field

from ssem_dask.storage.ledger import MAX_PAGE_REPORTS, Ledger, encode, page_of
from ssem_dask.task import TaskReport

MAX_HELD_REPORTS = MAX_PAGE_REPORTS
"""Reports of open pages that are held at most, about 600 B each; beyond it the oldest open page is dropped."""


@dataclass(slots=True)
class _OpenPage:
    """A page of which some tasks have not ended."""

    reports: list[bytes] = field(default_factory=list)
    in_flight: int = 0
    """Tasks that were submitted and have not ended."""
    complete: bool = False
    """Whether all of its tasks are known, submitted or kept."""


class PageWriter:
    """Writes the file of each page that becomes complete."""

    def __init__(self, ledger: Ledger, *, max_held: int = MAX_HELD_REPORTS) -> None:
        """Write into a ledger, holding at most `max_held` reports."""
        self._ledger, self._max_held = ledger, max_held
        self._open: dict[str, _OpenPage] = {}
        self._held = 0

    def begin_page(self, page: str, kept: list[TaskReport]) -> None:
        """Open a page; `kept` are its entries that stay as they are."""
        self._open[page] = _OpenPage([encode(report) for report in kept])
        self._held += len(kept)

    def task_submitted(self, page: str) -> None:
        """Count a task of a page that was submitted."""
        opened = self._open.get(page)
        if opened is not None:
            opened.in_flight += 1

    def end_page(self, page: str) -> None:
        """Declare that all tasks of a page are known."""
        opened = self._open.get(page)
        if opened is not None:
            opened.complete = True
            self._write_if_ended(page, opened)

    def task_ended(self, report: TaskReport) -> None:
        """Add the report of a submitted task whose ledger entry is written."""
        page = page_of(report.key)
        opened = self._open.get(page)
        if opened is None:
            return
        opened.reports.append(encode(report))
        opened.in_flight -= 1
        self._held += 1
        self._write_if_ended(page, opened)
        while self._held > self._max_held:
            self._drop(next(iter(self._open)))

    def _write_if_ended(self, page: str, opened: _OpenPage) -> None:
        if opened.complete and opened.in_flight == 0:
            self._ledger.write_page(page, opened.reports)
            self._drop(page)

    def _drop(self, page: str) -> None:
        self._held -= len(self._open.pop(page).reports)
