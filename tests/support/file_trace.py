"""Record every file that this process opens, in whatever way: Python reports each to its audit hook."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"
"""Ends the name of a file that is renamed when it is whole."""


@dataclass
class FileTrace:
    """Files below some folders that were asked for, and files that were written, in order."""

    folders: tuple[str, ...]
    read: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def add(self, paths: list[Path], path: Any) -> None:
        if isinstance(path, str | os.PathLike):
            name = os.fspath(path)
            if isinstance(name, str) and name.startswith(self.folders) and not name.endswith(_PARTIAL):
                paths.append(Path(name))


_traces: list[FileTrace] = []
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _traces:
        return
    for trace in _traces:
        if event == "open":
            path, _, flags = arguments
            trace.add(trace.written if flags & (os.O_WRONLY | os.O_RDWR) else trace.read, path)
        elif event in ("os.rename", "os.link"):
            trace.add(trace.written, arguments[1])


@contextmanager
def trace_files(*folders: str) -> Iterator[FileTrace]:
    """Trace the files below some folders; a hook, once set, stays until the process ends, and is idle outside."""
    global _installed  # noqa: PLW0603
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    trace = FileTrace(folders)
    _traces.append(trace)
    try:
        yield trace
    finally:
        _traces.remove(trace)
