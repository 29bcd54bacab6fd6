"""The numbers of a run that goes on somewhere else, from its ledger alone.

Every look lists the ledger's pages and reads only what is new, failed or stale; of a page that is complete only its sum
is kept, so that watching a run of millions of tasks costs little.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ssem_dask.runtime.progress import Clock, StageProgress
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Outcome, TaskReport

_READERS = 16


@dataclass(slots=True)
class _Sum:
    """What some tasks of a stage come to."""

    done: int = 0
    failed: int = 0
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    tasks: int = 0
    """With those that do not count."""

    def add(self, reports: Iterable[TaskReport]) -> None:
        """Count ended tasks."""
        for report in reports:
            good = report.outcome is not Outcome.FAILED
            self.done, self.failed = self.done + good, self.failed + (not good)
            self.pixels += report.pixels * good
            self.bytes_read += report.bytes_read
            self.bytes_written += report.bytes_written

    def plus(self, other: "_Sum") -> "_Sum":
        """Both together."""
        mine, others = (getattr(self, name) for name in self.__slots__), (getattr(other, n) for n in self.__slots__)
        return _Sum(*(a + b for a, b in zip(mine, others, strict=True)))


class LedgerWatch:
    """Counts what the ledger holds, look by look."""

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
            tasks: all tasks of each stage, in the order of the stages.
            pixels: source pixels (mip 0) of each stage's tasks.
            digests: that a stage's entries must carry to count.
            clock: seconds; rates count what ends from the first look on.
        """
        self._ledger, self._tasks, self._pixels, self._digests = ledger, tasks, pixels, digests
        self._clock = clock
        self._known: dict[str, dict[str, TaskReport]] = {}
        """The entries of each page that is not complete."""
        self._complete: dict[str, _Sum] = {}
        """What each complete page comes to."""
        self._first: dict[str, tuple[float, int]] = {}

    def look(self) -> list[StageProgress]:
        """How far each stage is now."""
        pages = self._ledger.pages(None)
        self._complete = {page: self._complete[page] for page in pages if page in self._complete}
        with ThreadPoolExecutor(_READERS) as readers:
            for page in pages:
                if self._is_settled(page) or self._sum_up(page):
                    self._known.pop(page, None)
                    continue
                known = self._known.setdefault(page, {})
                open_keys = [key for key in self._ledger.loose_keys(page) if not self._settled(known.get(key))]
                for key, report in zip(open_keys, readers.map(self._ledger.read, open_keys), strict=True):
                    if report is not None:
                        known[key] = report
        now = self._clock()
        return [self._progress(stage, now=now) for stage in self._tasks]

    def _sum_up(self, page: str) -> bool:
        """Read a complete page; False where it is not complete."""
        reports = self._ledger.complete_page(page)
        self._complete.pop(page, None)
        if reports is None:
            return False
        total = _Sum(tasks=len(reports))
        total.add(report for report in reports if self._counts(report))
        self._complete[page] = total
        return True

    def _is_settled(self, page: str) -> bool:
        """Whether a complete page was read, and nothing of it is going to be done again."""
        total = self._complete.get(page)
        return total is not None and total.done == total.tasks

    def _settled(self, report: TaskReport | None) -> bool:
        return report is not None and report.outcome is not Outcome.FAILED and self._counts(report)

    def _counts(self, report: TaskReport) -> bool:
        return report.digest == self._digests.get(report.stage)

    def _progress(self, stage: str, *, now: float) -> StageProgress:
        total = _Sum()
        for page, known in self._known.items():
            if page.partition("/")[0] == stage:
                total.add(report for report in known.values() if self._counts(report))
        for page, part in self._complete.items():
            if page.partition("/")[0] == stage:
                total = total.plus(part)
        began, before = self._first.setdefault(stage, (now, total.pixels))
        return StageProgress(
            stage,
            self._tasks[stage],
            self._pixels[stage],
            began,
            done=total.done,
            failed=total.failed,
            pixels_before=before,
            pixels_now=max(0, total.pixels - before),
            bytes_read=total.bytes_read,
            bytes_written=total.bytes_written,
        )
