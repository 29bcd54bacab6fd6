"""Pages of the ledger, written as their tasks end.

A driver sees every report; when all tasks of a page have ended it writes their reports once more as one file, so that
the next one who goes through the ledger reads that instead of each entry. Losing this costs nothing but time: the
entries are the truth, and whoever finds a page without its file reads them.
"""

from dataclasses import dataclass, field

from ssem_dask.storage.ledger import Ledger, encode, page_of
from ssem_dask.task import TaskReport

HELD = 200_000
"""Reports of open pages that are held at most, about 600 B each; where more are open, the oldest page is given up."""


@dataclass(slots=True)
class _Open:
    """A page some of whose tasks have been given out."""

    reports: list[bytes] = field(default_factory=list)
    given: int = 0
    """Tasks that were given out and have not ended."""
    whole: bool = False
    """Whether all of its tasks have been seen."""


class PageWriter:
    """Writes the file of each page that becomes complete."""

    def __init__(self, ledger: Ledger, *, held: int = HELD) -> None:
        """Write into a ledger, holding at most `held` reports."""
        self._ledger, self._limit = ledger, held
        self._open: dict[str, _Open] = {}
        self._held = 0

    def begin(self, page: str, kept: list[TaskReport]) -> None:
        """A page begins; `kept` are entries of it that stay as they are."""
        self._open[page] = _Open([encode(report) for report in kept])
        self._held += len(kept)

    def give(self, page: str) -> None:
        """A task of a page is given out."""
        opened = self._open.get(page)
        if opened is not None:
            opened.given += 1

    def end(self, page: str) -> None:
        """All tasks of a page have been seen."""
        opened = self._open.get(page)
        if opened is not None:
            opened.whole = True
            self._write(page, opened)

    def add(self, report: TaskReport) -> None:
        """A task that was given out has ended, and its entry is written."""
        page = page_of(report.key)
        opened = self._open.get(page)
        if opened is None:
            return
        opened.reports.append(encode(report))
        opened.given -= 1
        self._held += 1
        self._write(page, opened)
        while self._held > self._limit:
            self._drop(next(iter(self._open)))

    def _write(self, page: str, opened: _Open) -> None:
        if opened.whole and opened.given == 0:
            self._ledger.write_page(page, opened.reports)
            self._drop(page)

    def _drop(self, page: str) -> None:
        self._held -= len(self._open.pop(page).reports)
