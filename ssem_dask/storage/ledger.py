"""The ledger: one small JSON file per task that ended, in a folder per *page*, and one file per page that is complete.

A page holds tasks that follow one another: those of a stage that differ in y and x alone, or in their last number. Its
entries are `<url>/<page>/<name>.json`. When all of its tasks have ended, the driver writes them again, together, as
`<url>/<page>/whole.page`. So some thousand files describe ten million tasks; they are read one after the other, and a
driver holds one page at a time.

Laws: an entry is whole or it does not count. It is written to a temporary file, synced and renamed. A torn or invalid
entry reads as "not done", and its task runs again. While a page's file exists, it agrees with the entries: the file is
deleted before one of them changes (`forget_page`).
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from pydantic import TypeAdapter, ValidationError

from ssem_dask.storage import location
from ssem_dask.storage.retry import in_this_context
from ssem_dask.storage.untrusted import inflated
from ssem_dask.task import TaskReport

MAX_PAGE_REPORTS = 200_000
"""Reports of a page's file at most, about 600 bytes each. The entries of a larger page are read one by one."""
MAX_PAGE_BYTES = 256 << 20
"""Bytes that a page's file expands to at most."""
MAX_REPORT_BYTES = 4 << 20
"""Bytes of a report at most; the log in it has 30 lines."""
_PIECE_BYTES = 1 << 20
_REPORT = TypeAdapter(TaskReport)
_REPORTS = TypeAdapter(list[TaskReport])
_SEPARATOR = b",\n"
_SUFFIX = ".json"
_PAGE = "whole.page"
_READERS = 16
_PAGE_START = re.compile(r"/(?:mip\d+-)?z(\d+)$")
_POSITION_YX = re.compile(r"-y\d+-x\d+$")


def page_of(key: str) -> str:
    """Return the page that a task's entry belongs to: its key without y and x, or else up to the last dash.

    Law: the tasks of one page belong to one generation and follow one another in it, since a driver holds one page at a
    time and completes it before the next. So all tasks of a stage whose keys have no dash belong to one generation.

    Examples: `render/z000000-y0002048-x0000000` → `render/z000000`; `compose/fit-00001` → `compose/fit`;
    `compose/fit` → `compose`. A stage whose generations are `thing/sum` and then `thing/mean` breaks
    the law, since both are in page `thing`; name the first `thing/sum-all`. So does a stage that yields `thing/a-0`,
    `thing/b-0`, `thing/a-1`.
    """
    position = key.rfind("-y")
    if position > 0 and _POSITION_YX.match(key, position):
        return key[:position]
    stage, _, name = key.partition("/")
    head, dash, _ = name.rpartition("-")
    return f"{stage}/{head}" if dash else stage


def page_start(page: str) -> int | None:
    """Return the first section of a page that holds the tasks of one range of sections; None of any other page."""
    match = _PAGE_START.search(page)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page as it is stored: its entries and its file."""

    entries: dict[str, TaskReport | None]
    """Entries by key; those that are torn as None."""
    in_file: dict[str, TaskReport] | None
    """Reports in the page's file; None if there is no file, or a torn one."""
    file_is_sound: bool
    """Whether the file can be read, or there is none."""


class Ledger:
    """Reports of the tasks of one run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, report: TaskReport) -> None:
        """Write or replace the entry of a task whose page is not complete; OutputError if it cannot be written."""
        url = self.entry_url(report.key)
        with location.writing(url):
            location.write_bytes(url, _REPORT.dump_json(report, indent=1))

    def replace_all(self, reports: Iterable[TaskReport]) -> None:
        """Replace entries of pages that may be complete, several at a time; all are written when it returns."""
        with ThreadPoolExecutor(_READERS) as writers:
            for page, changed in groupby(reports, key=lambda report: page_of(report.key)):
                self.forget_page(page)
                for _ in writers.map(in_this_context(self.write), changed):
                    pass

    def read(self, key: str) -> TaskReport | None:
        """Return the report of a task; None if it has not ended or its entry is torn."""
        try:
            content = location.read_bytes(self.entry_url(key))
        except (FileNotFoundError, IsADirectoryError):
            return None
        report = _decoded(content) if len(content) <= MAX_REPORT_BYTES else None
        return report if report is not None and report.key == key else None

    def pages(self, stage: str | None) -> list[str]:
        """Return the sorted names of the pages of a stage, or of all stages, by listing folders instead of entries."""
        if stage is None:
            return [page for name in self._stages() for page in self.pages(name)]
        names = location.list_names(location.join(self.url, stage))
        files = {name for name in names if name.endswith(_SUFFIX) or name == _PAGE}
        pages = {f"{stage}/{name}" for name in names if name not in files}
        if files:
            pages.add(stage)
        return sorted(pages)

    def entries(self, page: str) -> dict[str, TaskReport | None]:
        """Return the entries of a page by key, torn ones as None; a complete page takes one request."""
        complete = self.complete_page(page)
        if complete is not None:
            return {report.key: report for report in complete}
        return self.loose_entries(page)

    def loose_entries(self, page: str) -> dict[str, TaskReport | None]:
        """Return the entries of a page that is not complete, with one request per entry."""
        keys = self.loose_keys(page)
        if len(keys) < _READERS // 4:
            return {key: self.read(key) for key in keys}
        with ThreadPoolExecutor(_READERS) as readers:
            return dict(zip(keys, readers.map(in_this_context(self.read), keys), strict=True))

    def loose_keys(self, page: str) -> list[str]:
        """Return the keys of the entries in a page's folder, including torn ones, by one listing."""
        stage = page.partition("/")[0]
        names = location.list_names(location.join(self.url, page))
        return [f"{stage}/{name.removesuffix(_SUFFIX)}" for name in names if name.endswith(_SUFFIX)]

    def complete_page(self, page: str) -> list[TaskReport] | None:
        """Return the reports of a complete page; None if it is not complete or its file is torn."""
        try:
            reports = _decoded_page(location.read_bytes(self.page_url(page)))
        except (FileNotFoundError, IsADirectoryError, ValidationError, zlib.error):
            return None
        return reports if all(page_of(report.key) == page for report in reports) else None

    def stored_page(self, page: str) -> StoredPage:
        """Return the entries of a page and its file, to compare them."""
        reports = self.complete_page(page)
        return StoredPage(
            entries=self.loose_entries(page),
            in_file=None if reports is None else {report.key: report for report in reports},
            file_is_sound=reports is not None or not location.exists(self.page_url(page)),
        )

    def write_page(self, page: str, reports: Sequence[bytes]) -> None:
        """Write the file of a page.

        Args:
            page: name of the page.
            reports: reports of all its tasks, from `encode`; each must agree with its entry.
        """
        url = self.page_url(page)
        with location.writing(url):
            location.write_bytes(url, zlib.compress(b"[" + _SEPARATOR.join(reports) + b"]", 1))

    def forget_page(self, page: str) -> None:
        """Delete the file of a page before its entries change."""
        url = self.page_url(page)
        with location.writing(url):
            location.delete(url, recursive=False)

    def keys(self, stage: str | None) -> list[str]:
        """Return the sorted keys of all entries of a stage, or of all stages, including torn ones, by one listing."""
        folder = self.url if stage is None else location.join(self.url, stage)
        prefix = "" if stage is None else f"{stage}/"
        names = location.list_files(folder)
        return sorted(_key_at(prefix + name) for name in names if name.endswith(_SUFFIX))

    def reports(self, stage: str | None) -> Iterator[TaskReport]:
        """Yield the valid entries of a stage, or of all stages, page by page, sorted within each."""
        for page in self.pages(stage):
            for report in self.entries(page).values():
                if report is not None:
                    yield report

    def done(self, stage: str | None) -> dict[str, str]:
        """Return key → digest of the tasks that ended well; an entry with another digest than its task is outdated."""
        return {report.key: report.digest for report in self.reports(stage) if report.outcome.is_done}

    def delete(self, key: str) -> None:
        """Delete the entry of a task, so that the task runs again."""
        self.forget_page(page_of(key))
        url = self.entry_url(key)
        with location.writing(url):
            location.delete(url, recursive=False)

    def _stages(self) -> list[str]:
        return [name for name in location.list_names(self.url) if "." not in name]

    def entry_url(self, key: str) -> str:
        """Return the URL of a task's entry."""
        location.join_below(self.url, key)  # checks the whole key; the page may be a part of it
        return location.join_below(self.url, page_of(key), key.rpartition("/")[2] + _SUFFIX)

    def page_url(self, page: str) -> str:
        """Return the URL of a page's file."""
        return location.join_below(self.url, f"{page}/{_PAGE}")


def open_ledger(output: str) -> Ledger:
    """Return the ledger of a run."""
    return Ledger(location.join(output, "ledger"))


def encode(report: TaskReport) -> bytes:
    """Encode a report as JSON on one line."""
    return _REPORT.dump_json(report)


def _decoded(content: bytes) -> TaskReport | None:
    try:
        return _REPORT.validate_json(content)
    except ValidationError:
        return None


def _decoded_page(content: bytes) -> list[TaskReport]:
    """Return the reports in a page's file.

    A file that fits into `MAX_REPORT_BYTES` is decoded as a whole. A larger one has a line per report, and each line is
    decoded while the file is expanded. So a small file that expands to gigabytes takes no memory.

    Raises:
        zlib.error: the file is torn, or larger than a page can be.
        ValidationError: a line is no report.
    """
    reports: list[TaskReport] = []
    rest = b""
    for piece in inflated(content, at_once=_PIECE_BYTES, limit=MAX_PAGE_BYTES):
        rest += piece
        if len(rest) <= MAX_REPORT_BYTES:
            continue
        *lines, rest = rest.split(_SEPARATOR)
        if not lines or len(reports) + len(lines) > MAX_PAGE_REPORTS:
            raise zlib.error("its reports are too many or too long")
        reports += [_REPORT.validate_json(line if reports or i else line[1:]) for i, line in enumerate(lines)]
    if not reports:
        return _REPORTS.validate_json(rest)
    return reports + [_REPORT.validate_json(line) for line in rest.removesuffix(b"]").split(_SEPARATOR)]


def _key_at(path: str) -> str:
    """Return the key of the entry at a path inside the ledger."""
    stage, _, rest = path.partition("/")
    return f"{stage}/{rest.rpartition('/')[2].removesuffix(_SUFFIX)}"
