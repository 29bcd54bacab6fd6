"""The ledger: one small JSON file per task that ended, in a folder per *page*, and one file per page that is complete.

A page is what belongs together in the order of the tasks: those of a stage that differ in y and x alone, or in their
last number. Its entries are `<url>/<page>/<name>.json`; when all of its tasks have ended, the driver writes them once
more, together, as `<url>/<page>/whole.page`. So ten million tasks are told of by some thousand files, which are read
one after the other, and a driver holds a page at a time.

Laws: an entry is whole or it does not count; it is written to a temporary file, synced and renamed, and one that is
torn or is no valid record reads as "not done", and its task runs again. As long as a page's file is there, it says what
the entries say: before an entry of it changes, it is deleted (`forget_page`).
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from pydantic import TypeAdapter, ValidationError

from ssem_dask.storage import location
from ssem_dask.storage.retry import in_this_context
from ssem_dask.task import TaskReport

_REPORT = TypeAdapter(TaskReport)
_REPORTS = TypeAdapter(list[TaskReport])
_SUFFIX = ".json"
_PAGE = "whole.page"
_READERS = 16
_PLACE = re.compile(r"-y\d+-x\d+$")


def page_of(key: str) -> str:
    """The page that a task's entry belongs to: its key without the place in y and x, or else without the last number.

    Law: the tasks of one page are of one generation, and follow one another in it; so tasks of a stage
    whose keys have no dash are all of one generation.
    """
    place = key.rfind("-y")
    if place > 0 and _PLACE.match(key, place):
        return key[:place]
    stage, _, name = key.partition("/")
    head, dash, _ = name.rpartition("-")
    return f"{stage}/{head}" if dash else stage


class Ledger:
    """Reports of the tasks of one run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, report: TaskReport) -> None:
        """Write or replace the entry of a task whose page is not complete; OutputError where it cannot be written."""
        url = self.entry_url(report.key)
        with location.writing(url):
            location.write_bytes(url, _REPORT.dump_json(report, indent=1))

    def replace_all(self, reports: Iterable[TaskReport]) -> None:
        """Change entries of pages that may be complete, several at a time; whole when it returns."""
        with ThreadPoolExecutor(_READERS) as writers:
            for page, changed in groupby(reports, key=lambda report: page_of(report.key)):
                self.forget_page(page)
                for _ in writers.map(in_this_context(self.write), changed):
                    pass

    def read(self, key: str) -> TaskReport | None:
        """The report of a task; None where it has not ended or its entry is torn."""
        try:
            content = location.read_bytes(self.entry_url(key))
        except FileNotFoundError:
            return None
        try:
            report = _REPORT.validate_json(content)
        except ValidationError:
            return None
        return report if report.key == key else None

    def pages(self, stage: str | None) -> list[str]:
        """Sorted names of the pages that have entries, of a stage or of all; by listing folders, not entries."""
        if stage is None:
            return [page for name in self._stages() for page in self.pages(name)]
        names = location.list_names(location.join(self.url, stage))
        files = {name for name in names if name.endswith(_SUFFIX) or name == _PAGE}
        found = {f"{stage}/{name}" for name in names if name not in files}
        if files:
            found.add(stage)
        return sorted(found)

    def entries(self, page: str) -> dict[str, TaskReport | None]:
        """The entries of a page by key, torn ones as None; of a complete page by one request."""
        complete = self.complete_page(page)
        if complete is not None:
            return {report.key: report for report in complete}
        return self.loose_entries(page)

    def loose_entries(self, page: str) -> dict[str, TaskReport | None]:
        """The entries of a page that is not complete, each by a request of its own."""
        keys = self.loose_keys(page)
        if len(keys) < _READERS // 4:
            return {key: self.read(key) for key in keys}
        with ThreadPoolExecutor(_READERS) as readers:
            return dict(zip(keys, readers.map(in_this_context(self.read), keys), strict=True))

    def loose_keys(self, page: str) -> list[str]:
        """Keys of the entries in a page's folder, torn ones too, by one listing."""
        stage = page.partition("/")[0]
        names = location.list_names(location.join(self.url, page))
        return [f"{stage}/{name.removesuffix(_SUFFIX)}" for name in names if name.endswith(_SUFFIX)]

    def complete_page(self, page: str) -> list[TaskReport] | None:
        """The reports of a complete page; None where it is not complete, or its file is torn."""
        try:
            content = location.read_bytes(self._page(page))
            return _REPORTS.validate_json(zlib.decompress(content))
        except (FileNotFoundError, ValidationError, zlib.error):
            return None

    def write_page(self, page: str, reports: Sequence[bytes]) -> None:
        """Write the file of a page.

        Args:
            page: its name.
            reports: of all its tasks, as `encode` makes them; every one must stand in its entry.
        """
        url = self._page(page)
        with location.writing(url):
            location.write_bytes(url, zlib.compress(b"[" + b",".join(reports) + b"]", 1))

    def forget_page(self, page: str) -> None:
        """Delete the file of a page, since entries of it are going to change."""
        url = self._page(page)
        with location.writing(url):
            location.delete(url, recursive=False)

    def keys(self, stage: str | None) -> list[str]:
        """Sorted keys of all entries (of a stage, or of all), torn and failed ones too, by one listing."""
        folder = self.url if stage is None else location.join(self.url, stage)
        prefix = "" if stage is None else f"{stage}/"
        names = location.list_files(folder)
        return sorted(_key_at(prefix + name) for name in names if name.endswith(_SUFFIX))

    def reports(self, stage: str | None) -> Iterator[TaskReport]:
        """All whole entries of a stage, or of all stages, page by page, sorted within each."""
        for page in self.pages(stage):
            for report in self.entries(page).values():
                if report is not None:
                    yield report

    def done(self, stage: str | None) -> dict[str, str]:
        """Key → digest of the tasks that ended well; one with another digest than the task's is stale."""
        return {report.key: report.digest for report in self.reports(stage) if report.outcome.is_done}

    def delete(self, key: str) -> None:
        """Forget a task, so that it runs again."""
        self.forget_page(page_of(key))
        url = self.entry_url(key)
        with location.writing(url):
            location.delete(url, recursive=False)

    def _stages(self) -> list[str]:
        return [name for name in location.list_names(self.url) if "." not in name]

    def entry_url(self, key: str) -> str:
        """Where the entry of a task lies."""
        location.join_below(self.url, key)  # the page may be of a part of it alone
        return location.join_below(self.url, page_of(key), key.rpartition("/")[2] + _SUFFIX)

    def _page(self, page: str) -> str:
        return location.join_below(self.url, f"{page}/{_PAGE}")


def open_ledger(output: str) -> Ledger:
    """Return the ledger of a run."""
    return Ledger(location.join(output, "ledger"))


def encode(report: TaskReport) -> bytes:
    """A report as JSON on one line."""
    return _REPORT.dump_json(report)


def _key_at(path: str) -> str:
    """The key of the entry at a path inside the ledger."""
    stage, _, rest = path.partition("/")
    return f"{stage}/{rest.rpartition('/')[2].removesuffix(_SUFFIX)}"
