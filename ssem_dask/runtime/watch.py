"""The numbers of a run that goes on somewhere else, from its ledger alone.

Every look lists the ledger once and reads only the entries that are new, failed or stale, so that watching a run of
100,000 tasks costs little.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ssem_dask.runtime.progress import Clock, StageProgress
from ssem_dask.storage.ledger import Ledger
from ssem_dask.task import Outcome, TaskReport

_READERS = 16


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
        self._known: dict[str, TaskReport] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def look(self) -> list[StageProgress]:
        """How far each stage is now."""
        open_keys = [key for key in self._ledger.keys(None) if not self._settled(key)]
        with ThreadPoolExecutor(_READERS) as readers:
            for key, report in zip(open_keys, readers.map(self._ledger.read, open_keys), strict=True):
                if report is not None:
                    self._known[key] = report
        now = self._clock()
        return [self._progress(stage, now=now) for stage in self._tasks]

    def _settled(self, key: str) -> bool:
        report = self._known.get(key)
        return report is not None and report.outcome is not Outcome.FAILED and self._counts(report)

    def _counts(self, report: TaskReport) -> bool:
        return report.digest == self._digests.get(report.stage)

    def _progress(self, stage: str, *, now: float) -> StageProgress:
        reports = [r for r in self._known.values() if r.stage == stage and self._counts(r)]
        good = [r for r in reports if r.outcome is not Outcome.FAILED]
        pixels = sum(r.pixels for r in good)
        began, before = self._first.setdefault(stage, (now, pixels))
        return StageProgress(
            stage,
            self._tasks[stage],
            self._pixels[stage],
            began,
            done=len(good),
            failed=len(reports) - len(good),
            pixels_before=before,
            pixels_now=max(0, pixels - before),
            bytes_read=sum(r.bytes_read for r in reports),
            bytes_written=sum(r.bytes_written for r in reports),
        )
