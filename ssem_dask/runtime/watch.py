"""Progress of a run that is driven elsewhere, from its ledger alone.

Every poll lists the ledger's pages and reads only entries that are new, failed or stale. Of a complete page only the
totals are kept, so that watching a run of millions of tasks costs little.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ssem_dask.runtime.progress import Clock, StageProgress
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Outcome, TaskReport, stage_part

_READERS = 16


@dataclass(slots=True)
class _Totals:
    """Totals of some tasks of one stage."""

    done: int = 0
    failed: int = 0
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    tasks: int = 0
    """Tasks in all, including stale ones."""

    def add(self, reports: Iterable[TaskReport]) -> None:
        """Count ended tasks."""
        for report in reports:
            ended_well = report.outcome is not Outcome.FAILED
            self.done, self.failed = self.done + ended_well, self.failed + (not ended_well)
            self.pixels += report.pixels * ended_well
            self.bytes_read += report.bytes_read
            self.bytes_written += report.bytes_written

    def plus(self, other: "_Totals") -> "_Totals":
        """Return the sum of both."""
        return _Totals(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class LedgerWatch:
    """Counts what the ledger holds, poll by poll."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        tasks: Mapping[str, int],
        pixels: Mapping[str, int],
        digests: Mapping[str, str],
        clock: Clock = time.monotonic,
    ) -> None:
        """Watch a run.

        Args:
            ledger: of the run.
            tasks: number of tasks of each stage, in the order of the stages.
            pixels: source pixels (mip 0) of each stage's tasks.
            digests: digest of each stage; entries with another one are stale and do not count.
            clock: seconds; rates count the tasks that end after the first poll.
        """
        self._ledger, self._tasks, self._pixels, self._digests = ledger, tasks, pixels, digests
        self._clock = clock
        self._loose: dict[str, dict[str, TaskReport]] = {}
        """Entries by key of each page that is not complete."""
        self._complete: dict[str, _Totals] = {}
        """Totals of each complete page."""
        self._first: dict[str, tuple[float, int]] = {}
        """Time and pixels of each stage at the first poll."""

    def poll(self) -> list[StageProgress]:
        """Return the current progress of each stage."""
        pages = self._ledger.pages(None)
        self._complete = {page: self._complete[page] for page in pages if page in self._complete}
        with ThreadPoolExecutor(_READERS) as readers:
            for page in pages:
                if self._is_settled(page) or self._read_complete(page):
                    self._loose.pop(page, None)
                    continue
                entries = self._loose.setdefault(page, {})
                open_keys = [key for key in self._ledger.loose_keys(page) if not self._ended_well(entries.get(key))]
                for key, report in zip(open_keys, readers.map(self._ledger.read, open_keys), strict=True):
                    if report is not None:
                        entries[key] = report
        now = self._clock()
        return [self._progress(stage, now=now) for stage in self._tasks]

    def _read_complete(self, page: str) -> bool:
        """Read a complete page and keep its totals; return False if it is not complete."""
        reports = self._ledger.complete_page(page)
        self._complete.pop(page, None)
        if reports is None:
            return False
        totals = _Totals(tasks=len(reports))
        totals.add(report for report in reports if self._is_current(report))
        self._complete[page] = totals
        return True

    def _is_settled(self, page: str) -> bool:
        """Return whether a complete page was read and none of its tasks will be repeated."""
        totals = self._complete.get(page)
        return totals is not None and totals.done == totals.tasks

    def _ended_well(self, report: TaskReport | None) -> bool:
        return report is not None and report.outcome is not Outcome.FAILED and self._is_current(report)

    def _is_current(self, report: TaskReport) -> bool:
        return stage_part(report.digest) == self._digests.get(report.stage)

    def _progress(self, stage: str, *, now: float) -> StageProgress:
        totals = _Totals()
        for page, entries in self._loose.items():
            if page.partition("/")[0] == stage:
                totals.add(report for report in entries.values() if self._is_current(report))
        for page, part in self._complete.items():
            if page.partition("/")[0] == stage:
                totals = totals.plus(part)
        began, pixels_before = self._first.setdefault(stage, (now, totals.pixels))
        return StageProgress(
            stage,
            self._tasks[stage],
            self._pixels[stage],
            began,
            done=totals.done,
            failed=totals.failed,
            pixels_before=pixels_before,
            pixels_now=max(0, totals.pixels - pixels_before),
            bytes_read=totals.bytes_read,
            bytes_written=totals.bytes_written,
        )
