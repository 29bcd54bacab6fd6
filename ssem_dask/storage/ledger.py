"""The ledger: one small JSON file per task that ended, `<url>/<key>.json`.

Law: an entry is whole or it does not count. It is written to a temporary file, synced and renamed; one that is torn or
is no valid record reads as "not done", and its task runs again.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError

from ssem_dask.storage import location
from ssem_dask.storage.retry import carried
from ssem_dask.task import TaskReport

_REPORT = TypeAdapter(TaskReport)
_SUFFIX = ".json"
_READERS = 16


class Ledger:
    """Reports of the tasks of one run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, report: TaskReport) -> None:
        """Write or replace the entry of a task; OutputError where it cannot be written."""
        url = self._entry(report.key)
        with location.writing(url):
            location.write_bytes(url, json.dumps(asdict(report), indent=1).encode())

    def write_all(self, reports: Iterable[TaskReport]) -> None:
        """Write or replace many entries, several at a time; whole when it returns."""
        with ThreadPoolExecutor(_READERS) as writers:
            for _ in writers.map(carried(self.write), reports):
                pass

    def read(self, key: str) -> TaskReport | None:
        """The report of a task; None where it has not ended or its entry is torn."""
        try:
            content = location.read_bytes(self._entry(key))
        except FileNotFoundError:
            return None
        try:
            report = _REPORT.validate_json(content)
        except ValidationError:
            return None
        return report if report.key == key else None

    def keys(self, stage: str | None) -> list[str]:
        """Sorted keys of all entries (of a stage, or of all), torn and failed ones too, by one listing."""
        folder = self.url if stage is None else location.join(self.url, stage)
        prefix = "" if stage is None else f"{stage}/"
        names = location.list_files(folder)
        return [prefix + name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]

    def reports(self, stage: str | None) -> Iterator[TaskReport]:
        """All whole entries of a stage, or of all stages, sorted by key."""
        with ThreadPoolExecutor(_READERS) as readers:
            for report in readers.map(carried(self.read), self.keys(stage)):
                if report is not None:
                    yield report

    def done(self, stage: str | None) -> dict[str, str]:
        """Key → digest of the tasks that ended well; one with another digest than the task's is stale."""
        return {report.key: report.digest for report in self.reports(stage) if report.outcome.stands}

    def delete(self, key: str) -> None:
        """Forget a task, so that it runs again."""
        url = self._entry(key)
        with location.writing(url):
            location.delete(url, recursive=False)

    def _entry(self, key: str) -> str:
        return location.inside(self.url, key) + _SUFFIX
